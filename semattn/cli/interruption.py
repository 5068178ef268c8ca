"""The message of a long run that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InterruptedRunError(Exception):
    """Interruption of a run that can be resumed."""


@contextmanager
def resumable_in(folder: Path) -> Iterator[None]:
    """Replace KeyboardInterrupt by an error that says how to resume, if `folder` exists.

    Raises
    ------
    InterruptedRunError
        At control-C, if `folder` exists.
    """
    try:
        yield
    except KeyboardInterrupt:
        if folder.is_dir():
            raise InterruptedRunError(
                f"interrupted — finished work is kept in {folder}; the same command resumes it"
            ) from None
        raise
