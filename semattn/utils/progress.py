"""Protocol of the progress callbacks of the package."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Function that is called while a long computation runs.

    Parameters
    ----------
    stage : what is being done, such as "training"
    done : number of finished items of the stage
    total : number of items of the stage, None if it is not known
    """

    def __call__(self, stage: str, done: int, total: int | None, /) -> None:
        """Report the progress of one stage."""


def ignore_progress(stage: str, done: int, total: int | None) -> None:
    """Do nothing."""
