"""Choice of the batch size from the memory of one image and the free memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..utils.profiling import profile

MOST = {"cpu": 8, "cuda": 128}  # larger batches are not faster
PART = 0.5  # fraction of the free memory that is used
_MEMINFO = Path("/proc/meminfo")


def batch_size(call: Callable[[int], object], device: torch.device) -> int:
    """Return the greatest power of two for which `call` uses at most half of the free memory.

    Parameters
    ----------
    call : runs the work on a given number of images; it is called with one, then with two
    device : device of the model
    """
    greatest = MOST.get(device.type, MOST["cpu"])
    free = free_mib(device)
    call(1)  # one-time allocations are not measured
    mib_per_pair = profile(lambda: call(2), device)[1].peak_mib
    if free is None or not mib_per_pair:
        return greatest
    size = greatest
    while size > 1 and size * mib_per_pair / 2 > PART * free:
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
