"""The site: `make docs` builds docs/_build/html, and a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from semattn import __version__ as release  # noqa: E402 — found by the line above

project = "semattn"
author = "semattn contributors"
version = release
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "literal"  # single backticks in docstrings are code

html_theme = "furo"
html_title = f"semattn {release}"
html_theme_options = {"navigation_with_keys": True}
html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 4
myst_links_external_new_tab = False

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False  # types are prose: shapes and units
maximum_signature_line_length = 88
add_module_names = False

# Pages link to one another as on the file system, so that links work there; what is a page of the
# site under another name gets that name. The order counts.
MOVED = (
    (r"(?:\.\./)+README\.md", "overview.md"),
    (r"(?:\.\./)*docs/", ""),
    (r"(?:\.\./)*CONTRIBUTING\.md", "contributing.md"),
    (r"(?:\.\./)*CHANGELOG\.md", "changelog.md"),
    (r"(?:\.\./)*semattn/zoo/assets/MODEL_CARD\.md", "model-card.md"),
    (r"(?:\.\./)*examples/(\w+)\.py", r"#\1-py"),
    (r"(?:\.\./)*(CITATION\.cff|LICENSE)", r"../\1"),
)
# Pages that are files of the repository.
INCLUDED = {
    "overview": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "model-card": "semattn/zoo/assets/MODEL_CARD.md",
}


def moved(page: str) -> str:
    """The text of a page, its links leading to where things are on the site."""
    for there, here in MOVED:
        page = re.sub(rf"\]\({there}(?=[)#\w.])", f"]({here}", page)
    return page


def read(_: Sphinx, name: str, source: list[str]) -> None:
    """Put the text of a file of the repository into the page that stands for it."""
    if name in INCLUDED:
        source[0] = (ROOT / INCLUDED[name]).read_text(encoding="utf-8")
    source[0] = moved(source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", read)
