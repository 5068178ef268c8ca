"""The page: its own files and the content, put together as one HTML text.

The browser is told to load nothing and to run nothing but the page's own script, by its digest
(Content-Security-Policy). Content is JSON that no tag can end; the script writes it as text, never
as HTML.
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
    "explorer.js",
    "prompting.js",
    "methods.js",
    "charts.js",
    "analysis.js",
    "spurious.js",
    "start.js",
)
_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def render(title: str, content: dict[str, Any]) -> str:
    """The whole page.

    Parameters
    ----------
    title : of the document, any text
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
    # One pass, so that a placeholder in what was put in stays text.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], joined(("page.html",)))


def as_json(content: Any) -> str:
    r"""JSON that can stand in a script element: no tag, no comment and no line end in it.

    Examples
    --------
    >>> print(as_json("</script><!--"))
    "\u003c/script\u003e\u003c!--"
    """
    return json.dumps(content, allow_nan=False, separators=(",", ":")).translate(_ESCAPED)


def digest(text: str) -> str:
    """What a Content-Security-Policy calls a script or a style by."""
    value = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(value).decode('ascii')}"


@cache
def joined(names: tuple[str, ...]) -> str:
    """The page's own files, one after the other."""
    folder = resources.files(__package__) / "page"
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    if len(names) > 1:
        return "(() => {\n'use strict';\n" + "\n".join(texts) + "})();\n"
    return texts[0]
