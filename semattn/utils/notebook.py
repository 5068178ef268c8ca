"""Display of results and messages in notebooks and interactive shells."""

from __future__ import annotations

import reprlib
import sys
from importlib import import_module
from typing import Any

VIEWS = "semattn.viz.notebook_views"  # draws results; its level is above theirs


class ShortRepr:
    """Result that a shell displays in a short line: arrays as their shape."""

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={_SHORT.repr(value)}" for name, value in vars(self).items())
        return f"{type(self).__name__}({fields})"


class NotebookView(ShortRepr):
    """Result that a notebook displays as a picture with text, and a shell in a short line."""

    def _repr_html_(self) -> str:
        html: str = import_module(VIEWS).to_html(self)
        return html


class _Short(reprlib.Repr):
    """Short texts of values: arrays are their type and shape, other objects their type."""

    def repr_instance(self, x: Any, level: int) -> str:  # noqa: ARG002 — called so by reprlib
        """Return the text of a value that is neither a container nor a text nor a number."""
        shape = getattr(x, "shape", None)
        if isinstance(shape, tuple):
            return f"{type(x).__name__}{tuple(shape)}"
        return str(x) if isinstance(x, (float, type(None), bool)) else type(x).__name__


_SHORT = _Short()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxtuple = _SHORT.maxlist = _SHORT.maxdict = 2
_SHORT.maxlevel = 2


def tell(text: str) -> None:
    """Write a line to the standard error in a notebook or an interactive shell, else nothing."""
    if hasattr(sys, "ps1"):
        sys.stderr.write(f"{text}\n")
