"""Report as a widget of a notebook, whose selected patch, layer and head are Python attributes."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..explain import Explanation
from .builder import HEIGHT, build
from .render import joined


def widget(explanation: Explanation, *, height: int = HEIGHT, **options: Any) -> Any:
    """Return the report of an explanation as a widget.

    The attributes `patch` (row by row from 0; -1 is a prefix token), `layer` (-1 is the last, until
    the page is shown) and `head` (-1 is the mean over heads) are the selection in the page. They
    follow the page, and the page follows them: ``widget.observe(function, "patch")`` calls a
    function at each change.

    Parameters
    ----------
    explanation, options : as for `build`; give `model` for attention
    height : height of the widget, pixels

    Raises
    ------
    ImportError
        Without the package anywidget.

    Examples
    --------
    ::

        explorer = semattn.report.widget(explanation, model=model)
        explorer            # last line of a cell
        explorer.patch      # the patch that is selected in the page
    """
    report_widget = _widget_class()  # before the page, which takes longer
    patch = int(explanation.patch_map[options.get("index", 0)].argmax())  # as in the page
    page = build(explanation, **options).html
    return report_widget(page=page, height=int(height), patch=patch)


@cache
def _widget_class() -> type:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError(
            "widget: expected the package anywidget, got none — pip install 'semattn[widget]'"
        ) from error

    class ReportWidget(anywidget.AnyWidget):
        _esm = joined(("widget.js",))
        page = traitlets.Unicode().tag(sync=True)
        height = traitlets.Int(HEIGHT).tag(sync=True)
        patch = traitlets.Int(0).tag(sync=True)
        layer = traitlets.Int(-1).tag(sync=True)
        head = traitlets.Int(-1).tag(sync=True)

    return ReportWidget
