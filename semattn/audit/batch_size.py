"""How many images go into the model at once, from what one of them takes and what is free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..utils.profiling import measured

MOST = {"cpu": 8, "cuda": 128}  # more make nothing faster
PART = 0.5  # of what is free
_MEMINFO = Path("/proc/meminfo")


def batch_size(call: Callable[[int], object], device: torch.device) -> int:
    """A power of two, such that `call` with as many images takes half of the free memory at most.

    Parameters
    ----------
    call : runs the work on so many images; it is run with one, then with two
    device : where
    """
    most = MOST.get(device.type, MOST["cpu"])
    free = free_mib(device)
    call(1)  # what is made once, is made now
    each = measured(lambda: call(2), device)[1].peak_mib
    if free is None or not each:
        return most
    size = most
    while size > 1 and size * each / 2 > PART * free:
        size //= 2
    return size


def free_mib(device: torch.device) -> float | None:
    """Memory that is free on a device, MiB; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    if device.type == "cpu" and _MEMINFO.exists():
        for line in _MEMINFO.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 2**10
    return None
