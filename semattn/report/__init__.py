"""The interactive report: one HTML file that opens from the disk and asks nothing of the network.

`of` makes it of an explanation, a comparison, an analysis, a discovery, or several of them; `write`
saves it, and a notebook shows it as it is. What the page shows is computed here and lies in the
file; the page itself (`page/`) only draws. Knows nothing of commands and folders of results.
"""

from .report import Report, html, inline, of, write

__all__ = ["Report", "html", "inline", "of", "write"]
