"""Interactive report: one HTML file that opens without a server and without network access.

`build` builds it from an explanation, a comparison, an analysis, a discovery, marks, or several of
them; `write` saves it, a notebook displays it, and `widget` is a widget with its selection. All
content is computed here and stored in the file; the scripts in `page/` only draw it. The package
must not import commands.
"""

from .builder import Report, build, html, inline, write
from .widget import widget

__all__ = ["Report", "build", "html", "inline", "widget", "write"]
