"""Assembly of the page: template, styles, scripts and content in one HTML text.

A Content-Security-Policy allows only the page's own script and style, by their digests, and no
network access. The content is JSON with escaped tags; the script inserts it as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from html import escape
from importlib import resources
from typing import Any

STYLE = ("page.css",)
SCRIPT = (
    "core.js",
    "stage.js",
    "answer.js",
    "explorer.js",
    "prompting.js",
    "methods.js",
    "charts.js",
    "analysis.js",
    "gallery.js",
    "spurious.js",
    "marks.js",
    "frame.js",
    "start.js",
)
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(title: str, content: dict[str, Any]) -> str:
    """Return the complete page.

    Parameters
    ----------
    title : title of the document, any text
    content : ready for JSON; no NaN
    """
    style, script = joined(STYLE), joined(SCRIPT)
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{digest(style)}'; script-src '{digest(script)}'"
    )
    parts = {
        "policy": policy,
        "title": escape(title),
        "style": style,
        "script": script,
        "content": as_json(content),
    }
    # One pass, so a placeholder in inserted text is not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], joined(("page.html",)))


def as_json(content: Any) -> str:
    r"""Return JSON that is safe in a script element: without tags, comments and line ends.

    Examples
    --------
    >>> print(as_json("</script><!--"))
    "\u003c/script\u003e\u003c!--"
    """
    return json.dumps(content, allow_nan=False, separators=(",", ":")).translate(_ESCAPED)


def digest(text: str) -> str:
    """Return the digest of a script or a style for a Content-Security-Policy."""
    value = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(value).decode('ascii')}"


@cache
def joined(names: tuple[str, ...]) -> str:
    """Return the concatenated files of the page."""
    folder = resources.files(__package__) / "page"
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    if len(names) > 1:
        return "(() => {\n'use strict';\n" + "\n".join(texts) + "})();\n"
    return texts[0]
