"""The notebooks of docs/notebooks run, show the outputs that they store, and are small."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 400_000


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def without_numbers(text: str) -> str:
    return re.sub(r"[\s\d.e+−-]*\d[\d.]*", " # ", text).strip()


def stored_text(cell: dict[str, Any]) -> str:
    streams = [output for output in cell["outputs"] if output["output_type"] == "stream"]
    return "".join("".join(one["text"]) for one in streams if one["name"] == "stdout")


def run_cell(source: str, scope: dict[str, Any]) -> Any:
    """Return the value of the last line, as a notebook shows it."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "<cell>", "exec"), scope)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)


def test_there_are_four():
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_stored_and_small(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    pictures = [one for one in outputs if "base64," in json.dumps(one) or "image/" in str(one)]
    assert pictures
    assert path.stat().st_size < MAX_BYTES
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.weights
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_print_what_is_stored(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(path):
        value = run_cell("".join(cell["source"]), scope)
        assert without_numbers(capsys.readouterr().out) == without_numbers(stored_text(cell))
        if hasattr(value, "_repr_html_"):
            assert "<img" in value._repr_html_()


def test_a_kernel_shows_the_progress_bar(monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cell = nbformat.v4.new_code_cell(
        "from semattn.integrations import progress_bar\n"
        "with progress_bar() as progress:\n"
        "    progress('reading', 1, 3)\n"
        "    progress('reading', 3, 3)"
    )
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    (shown,) = [one for one in notebook.cells[0].outputs if one.output_type == "display_data"]
    assert shown.data["text/html"].startswith('<progress value="3" max="3"></progress> reading: 3')
