"""The errors that semattn raises about what it was given, and its one warning with a name.

Every message is one line: ``name: expected, got — what to do``. Each class also is the built-in
exception that a caller without semattn in mind would catch.
"""

from __future__ import annotations

import os


def plain(text: str) -> str:
    r"""A text that is one line, can be shown and can be stored, whatever a file is called.

    Line ends, what moves a terminal's cursor, and what is no Unicode stand as their escapes.

    Examples
    --------
    >>> print(plain("cat\x1b[2J\n\udcff.png"))
    cat\x1b[2J\n\udcff.png
    """
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text
    )


def relative_reason(reason: str, source: object, name: str) -> str:
    """Return why a file was skipped with its name in place of its path: the same in any folder.

    Examples
    --------
    >>> relative_reason("expected a picture, got '/data/cat/1.png'", "/data/cat/1.png", "cat/1.png")
    "expected a picture, got 'cat/1.png'"
    """
    if not isinstance(source, (str, os.PathLike)):
        return reason
    path = " ".join(plain(repr(os.fspath(source))).split())
    for text in (path, f"{path[:200]}…"):  # messages cut long names
        reason = reason.replace(text, repr(name))
    return reason


class SemattnError(Exception):
    """Anything that semattn refuses."""

    def __str__(self) -> str:
        return plain(super().__str__())


class ShapeError(SemattnError, ValueError):
    """A tensor, grid or region of a size that does not fit."""


class ImageError(SemattnError, ValueError):
    """A picture that cannot be read, or that is not one."""


class TargetError(SemattnError, ValueError):
    """A target that the model's output does not have."""


class LabelError(SemattnError, ValueError):
    """Labels that are not one class number of the model for each image."""


class UnsupportedModelError(SemattnError, TypeError):
    """A model, or one attention call inside it, that cannot be read truthfully."""


class Interrupted(Exception):  # noqa: N818 — an end, not an error
    """Control-C in a run of which some results are written; the message says which."""


class NoKeypointWarning(UserWarning):
    """An image with no keypoint in any patch: its concentration is uniform."""
