"""Units of an audit, the same for any number of processes; an interruption loses at most one."""

from __future__ import annotations

from dataclasses import dataclass

from ..data.prefetching import BatchRange

BATCHES = 16  # batches per unit


@dataclass(frozen=True)
class Unit:
    """Images `first` to `stop`, excluded, in batches of `size`."""

    number: int
    first: int
    stop: int
    size: int

    @property
    def name(self) -> str:
        """Name of the files of the unit."""
        return f"{self.number:06d}"

    @property
    def batches(self) -> list[BatchRange]:
        """Batches of the unit, which never reach into another unit."""
        starts = range(self.first, self.stop, self.size)
        return [BatchRange(start, min(start + self.size, self.stop)) for start in starts]


def units_of(images: int, size: int) -> list[Unit]:
    """Return all units of a number of images.

    Examples
    --------
    >>> [(unit.first, unit.stop) for unit in units_of(40, 2)]
    [(0, 32), (32, 40)]
    """
    step = BATCHES * size
    return [
        Unit(number, first, min(first + step, images), size)
        for number, first in enumerate(range(0, images, step))
    ]
