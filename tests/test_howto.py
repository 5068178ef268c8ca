"""The code of the pages in docs/howto/ runs, each page from its first block to its last."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from semattn.density import densities
from semattn.evaluation import measures
from semattn.explain import explainers
from semattn.keypoints import detectors
from semattn.masking import policies
from semattn.zoo import embedded_models, sources

ROOT = Path(__file__).parents[1]
PAGES = sorted(set((ROOT / "docs" / "howto").glob("*.md")) - {ROOT / "docs/howto/index.md"})
# What each page enters, and where.
ENTERS = {
    "density": densities,
    "detector": detectors,
    "explainer": explainers,
    "masking-policy": policies,
    "metric": measures,
    "model-family": embedded_models,
    "your-model": sources,
}


@pytest.fixture(autouse=True)
def _registries_as_before():
    before = {name: dict(registry) for name, registry in ENTERS.items()}
    yield
    for name, registry in ENTERS.items():
        registry.clear()
        registry.update(before[name])


def test_each_extension_point_has_its_page():
    assert [page.stem for page in PAGES] == sorted(ENTERS)
    index = (ROOT / "docs/howto/index.md").read_text(encoding="utf-8")
    assert all(re.search(rf"^{name}$", index, re.MULTILINE) for name in ENTERS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_code_runs(page, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    monkeypatch.chdir(ROOT)
    names = set(ENTERS[page.stem])
    # The folder of the examples holds programs, too; a warning says that they are left out.
    warnings.filterwarnings("ignore", "folder: left out", UserWarning)
    scope: dict[str, object] = {"__name__": page.stem}
    for block in blocks:
        exec(compile(block, page.name, "exec", dont_inherit=True), scope)
    assert len(set(ENTERS[page.stem]) - names) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_says_where_to_put_it(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`((?:semattn|tests)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / link).exists(), link
