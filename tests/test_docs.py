"""The pages of the site hang together: read as text, without Sphinx; `make docs` does the rest."""

from __future__ import annotations

import json
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import semattn
from benchmarks.tools.reproduce_table import STUDIES, by_command, reproduce_table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for kind in ("*.md", "*.ipynb")
    for path in DOCS.rglob(kind)
    if not {"_build", ".ipynb_checkpoints"} & {*path.parts}
)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GALLERY = (DOCS / "gallery.md").read_text(encoding="utf-8")


def where(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def prose(page: Path) -> str:
    """Return the text of a page; of a notebook, that of its Markdown cells."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(one["source"]) for one in cells if one["cell_type"] == "markdown")


def tree(page: Path) -> set[Path]:
    """The pages that the toctrees of a page name."""
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", prose(page), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line[:1] not in ("", ":")]
    names = [re.sub(r"^.* <(.+)>$", r"\1", line) for line in lines]
    files = [page.parent / f"{name}.md" for name in names]
    return {file if file.exists() else file.with_suffix(".ipynb") for file in files}


def reference() -> dict[str, set[str]]:
    """Return the reference pages of each module."""
    pages_by_module: dict[str, set[str]] = {}
    for page in (DOCS / "api").glob("*.md"):
        for module in re.findall(r"automodule:: (\S+)", page.read_text(encoding="utf-8")):
            pages_by_module.setdefault(module, set()).add(page.stem)
    return pages_by_module


def test_every_page_is_in_one_toctree():
    named = [entry for page in PAGES for entry in tree(page)]
    assert len(named) == len(set(named))
    left = set(PAGES) - {*named, DOCS / "index.md"}
    assert not left, f"enter them in a toctree of docs/index.md: {sorted(map(where, left))}"
    assert not set(named) - set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|``?[^`]*``?", "", prose(page), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (page.parent / link).exists(), f"{where(page)} links to {link}"


def test_the_reference_has_every_public_name():
    text = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    shown = reference()
    for name, home in semattn._HOME.items():
        assert f"{{any}}`{name} <semattn.{home}.{name}>`" in text, f"docs/api/index.md lacks {name}"
        assert f"semattn.{home}" in shown
    assert {f"semattn.{part}" for part in semattn._PARTS} <= set(shown)


@pytest.mark.parametrize("module", sorted(reference()))
def test_the_modules_of_the_reference_exist(module):
    assert import_module(module).__doc__


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_the_gallery_has_every_example(script):
    assert f"({script.stem}-py)=" in GALLERY
    assert f"literalinclude}} ../examples/{script.name}" in GALLERY
    assert (DOCS / "gallery" / f"{script.stem}.txt").stat().st_size
    pictures = {path.name for path in (DOCS / "gallery").glob(f"{script.stem}*.jpg")}
    assert pictures == set(re.findall(rf"\(gallery/({script.stem}(?:-\d)?\.jpg)\)", GALLERY))


def test_pictures_of_the_gallery_are_small():
    for picture in (DOCS / "gallery").glob("*.jpg"):
        assert picture.stat().st_size < 150_000, picture.name


def test_the_glossary_defines_each_term_once_in_one_sentence():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?!term|---)(.+?) \| (.+) \| (\[.+?\]\(.+\)) \|$", text, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!term|---)", text, re.MULTILINE)) > 80
    terms = [term for term, _, _ in rows]
    assert len(terms) == len(set(terms))
    for term, meaning, _ in rows:
        assert meaning.endswith(".") and not re.search(r"[a-z]\. [A-Z]", meaning), term


def test_every_table_has_a_command():
    """`reproduce_table` fails for a command without data and time."""
    page = Path("a.md")
    text = "Made by `python -m benchmarks.studies.explain.methods`."
    tables = [(page, ""), (page, text), (page, "")]
    tables.append((Path("b.md"), ""))
    assert by_command(tables) == {"python -m benchmarks.studies.explain.methods": [page] * 3}
    unknown = [(page, "Made by `python -m benchmarks.studies.explain.new`.")]
    with pytest.raises(KeyError, match="explain.new"):
        reproduce_table(unknown)
    for module in STUDIES:
        if not module.startswith("make "):
            assert find_spec(module) is not None, module
