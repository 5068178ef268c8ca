"""Sphinx configuration: `make docs` builds docs/_build/html, and a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from semattn import __version__ as release  # noqa: E402 — needs the path set above

project = "semattn"
author = "semattn contributors"
version = release
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "literal"  # single backticks in docstrings are code

html_theme = "furo"
html_title = f"semattn {release}"
html_theme_options = {"navigation_with_keys": True}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 4
myst_links_external_new_tab = False

# docs/notebooks/make.py runs the notebooks; the site shows their stored outputs.
nb_execution_mode = "off"
nb_output_stderr = "remove"
nb_merge_streams = True

autodoc_member_order = "groupwise"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_param = False  # types are prose: shapes and units
maximum_signature_line_length = 88
add_module_names = False

# Links in pages follow the file system, so that they also work in the repository. These patterns
# map them to the pages of the site; the first ones take precedence.
LINK_PATTERNS = (
    (r"(?:\.\./)+README\.md", "overview.md"),
    (r"(?:\.\./)*docs/", ""),
    (r"(?:\.\./)*CONTRIBUTING\.md", "contributing.md"),
    (r"(?:\.\./)*CHANGELOG\.md", "changelog.md"),
    (r"(?:\.\./)*semattn/zoo/assets/MODEL_CARD\.md", "model-card.md"),
    (r"(?:\.\./)*examples/(\w+)\.py", r"#\1-py"),
    (r"(?:\.\./)*(CITATION\.cff|LICENSE)", r"../\1"),
)
# Pages with the text of a repository file.
INCLUDED_FILES = {
    "overview": "README.md",
    "contributing": "CONTRIBUTING.md",
    "changelog": "CHANGELOG.md",
    "model-card": "semattn/zoo/assets/MODEL_CARD.md",
}


def with_site_links(text: str) -> str:
    """Return the text of a page with links to the pages of the site."""
    for pattern, target in LINK_PATTERNS:
        text = re.sub(rf"\]\({pattern}(?=[)#\w.])", f"]({target}", text)
    return text


def read_page(_: Sphinx, name: str, source: list[str]) -> None:
    """Insert the text of repository files into their pages, and adapt the links."""
    if name in INCLUDED_FILES:
        source[0] = (ROOT / INCLUDED_FILES[name]).read_text(encoding="utf-8")
    source[0] = with_site_links(source[0])


def setup(app: Sphinx) -> None:
    """Connect the extension to Sphinx."""
    app.connect("source-read", read_page)
