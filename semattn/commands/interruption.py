"""The message of a long run that was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InterruptedRunError(Exception):
    """An interrupted run whose finished part is kept."""


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Say of an interrupted run what is kept and how to go on, where anything is kept.

    Raises
    ------
    InterruptedRunError
        In place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        if folder.is_dir():
            raise InterruptedRunError(
                f"interrupted — what is done is kept in {folder}; the same command goes on"
            ) from None
        raise
