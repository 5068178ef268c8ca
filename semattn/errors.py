"""Exceptions and the warning class of semattn, and helpers for their messages.

Every message is one line: ``name: expected X, got Y — do Z``. Each error class also derives from
the matching built-in exception, such as ValueError.
"""

from __future__ import annotations

import os


def plain(text: str) -> str:
    r"""Return a text as one printable line, safe for terminals and text files.

    Line ends, terminal control characters and invalid Unicode are replaced by their escapes.

    Examples
    --------
    >>> print(plain("cat\x1b[2J\n\udcff.png"))
    cat\x1b[2J\n\udcff.png
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def relative_reason(reason: str, source: object, name: str) -> str:
    """Return an error message with the name of a file in place of its path.

    The message is then the same for each folder that holds the data set.

    Examples
    --------
    >>> relative_reason("expected a picture, got '/data/cat/1.png'", "/data/cat/1.png", "cat/1.png")
    "expected a picture, got 'cat/1.png'"
    """
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read_bytes"):
        return reason
    text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else str(source)
    path = " ".join(plain(repr(text)).split())
    for text in (path, f"{path[:200]}…"):  # messages cut long names
        reason = reason.replace(text, repr(name))
    return reason


class SemattnError(Exception):
    """Base class of the errors of semattn."""

    def __str__(self) -> str:
        return plain(super().__str__())


class ShapeError(SemattnError, ValueError):
    """Error for a tensor, grid or region of the wrong shape."""


class ImageError(SemattnError, ValueError):
    """Error for an image that cannot be read, or for data that is not an image."""


class TargetError(SemattnError, ValueError):
    """Error for a target that the model's output does not have."""


class LabelError(SemattnError, ValueError):
    """Error for labels that are not one class number of the model for each image."""


class UnsupportedModelError(SemattnError, TypeError):
    """Error for a model, or an attention call in it, that cannot be recorded correctly."""


class MissingPackageError(SemattnError, ImportError):
    """Error for a package that is not installed or cannot be imported."""


class Interrupted(Exception):  # noqa: N818 — not an error
    """Interruption (Control-C) of a run after some results were written; the message lists them."""


class NoKeypointWarning(UserWarning):
    """Warning that an image has no keypoint in any patch, so its concentration is uniform."""
