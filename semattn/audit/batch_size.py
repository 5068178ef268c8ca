"""Batch size from the free memory, and the units of work of an audit.

The units are the same for any number of processes; an interruption loses at most one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.prefetching import BatchRange
from ..utils.profiling import profile

MAX_BATCH_SIZE = {"cpu": 8, "cuda": 128}  # larger batches are not faster
BATCHES_PER_UNIT = 16
MEMORY_SHARE = 0.5  # fraction of the free memory that is used
_MEMINFO = Path("/proc/meminfo")


def choose_batch_size(call: Callable[[int], object], device: torch.device) -> int:
    """Return the greatest power of two for which `call` uses at most half of the free memory.

    Parameters
    ----------
    call : runs the work on a given number of images; it is called with one, then with two
    device : device of the model
    """
    greatest = MAX_BATCH_SIZE.get(device.type, MAX_BATCH_SIZE["cpu"])
    free = free_mib(device)
    call(1)  # one-time allocations are not measured
    mib_per_pair = profile(lambda: call(2), device)[1].peak_mib
    if free is None or not mib_per_pair:
        return greatest
    size = greatest
    while size > 1 and size * mib_per_pair / 2 > MEMORY_SHARE * free:
        size //= 2
    return size


def free_mib(device: torch.device) -> float | None:
    """Return the free memory of a device in MiB; None if it is not known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    if device.type == "cpu" and _MEMINFO.exists():
        for line in _MEMINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**10
    return None


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


def split_into_units(images: int, size: int) -> list[Unit]:
    """Return all units of a number of images.

    Examples
    --------
    >>> [(unit.first, unit.stop) for unit in split_into_units(40, 2)]
    [(0, 32), (32, 40)]
    """
    step = BATCHES_PER_UNIT * size
    return [
        Unit(number, first, min(first + step, images), size)
        for number, first in enumerate(range(0, images, step))
    ]
