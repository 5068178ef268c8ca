"""The report as a widget: its traits, its scripts, and the exchange of the selection."""

from __future__ import annotations

import sys

import pytest

from semattn import report
from tests.report.pages import explained, model_of

pytest.importorskip("anywidget")


@pytest.fixture(scope="module")
def explanation():
    return explained(model_of())


def test_it_has_the_page_and_the_brightest_patch(explanation):
    widget = report.widget(explanation, height=500)
    assert widget.page == report.html(explanation)
    assert widget.height == 500
    brightest = int(explanation.patch_map[0].argmax())
    assert (widget.patch, widget.layer, widget.head) == (brightest, -1, -1)


def test_it_tells_of_a_new_selection(explanation):
    widget, seen = report.widget(explanation), []
    widget.observe(lambda change: seen.append(change["new"]), "patch")
    widget.set_state({"patch": 3, "layer": 1, "head": 0})  # as the page sends it
    assert seen == [3]
    assert (widget.layer, widget.head) == (1, 0)


def test_page_and_widget_use_the_same_names(explanation):
    widget = report.widget(explanation)
    script = widget._esm if isinstance(widget._esm, str) else str(widget._esm)
    for name in ("patch", "layer", "head"):
        assert f"'{name}'" in script
        assert widget.trait_metadata(name, "sync")
    assert "sandbox = 'allow-scripts'" in script
    assert "data.semattn" in widget.page and "postMessage({ semattn: selection() }" in widget.page


def test_without_the_package_it_names_the_extra(explanation, monkeypatch):
    from semattn.report.widget import _widget_class

    _widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pip install 'semattn\[widget\]'"):
        report.widget(explanation)
    _widget_class.cache_clear()
