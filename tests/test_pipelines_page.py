"""The code of docs/pipelines.md runs, each section by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
# Lightning on its progress bar, its loaders without workers and the trees of PyTorch.
QUIET = ("ignore::UserWarning", "ignore:.*LeafSpec", "ignore::FutureWarning")


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=[pytest.mark.weights] if "semattn.load(" in text else [])
        for title, text in SECTIONS.items()
    ],
)
def test_its_code_runs(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", SECTIONS[title], re.DOTALL | re.MULTILINE)
    assert blocks
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    scope: dict[str, object] = {"__name__": "pipelines"}
    for block in blocks:
        exec(compile(block, title, "exec", dont_inherit=True), scope)
