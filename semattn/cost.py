"""What a call costs: seconds, and memory beyond what was there before it.

Knows nothing of models. The seconds of an accelerator's work are counted to its end.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_STATM = Path("/proc/self/statm")  # Linux: sizes of this process, in pages; the second is resident
_EVERY = 0.002  # seconds between two looks at it
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Wall time in seconds; peak memory in MiB, None where there is no way to tell."""

    seconds: float
    peak_mib: float | None


def measured(call: Callable[[], Any], device: torch.device) -> tuple[Any, Cost]:
    """What `call` returns, and what that took.

    On CUDA, the memory is the most that torch had allocated meanwhile, less what it had before. On
    a CPU under Linux it is the most resident memory of the whole process, looked at every 2 ms,
    less that before: shorter peaks go unseen, and other threads count along, so that differences
    of a few MiB are noise. Elsewhere it is None.

    Examples
    --------
    >>> made, cost = measured(lambda: 6 * 7, torch.device("cpu"))
    >>> made, cost.seconds < 1
    (42, True)
    """
    _settle(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        made, seconds = _timed(call, device)
        return made, Cost(seconds, (torch.cuda.max_memory_allocated(device) - before) / _MIB)
    if device.type == "cpu" and _STATM.exists():
        with _Watch() as watch:
            made, seconds = _timed(call, device)
        return made, Cost(seconds, (watch.peak - watch.before) / _MIB)
    made, seconds = _timed(call, device)
    return made, Cost(seconds, None)


def _timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    start = time.perf_counter()
    made = call()
    _settle(device)
    return made, time.perf_counter() - start


def _settle(device: torch.device) -> None:
    """Wait for what the device was told to do already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class _Watch:
    """Looks at the resident memory of this process from a thread of its own."""

    def __enter__(self) -> _Watch:
        gc.collect(1)  # what is older does not go away meanwhile
        _give_back()
        self.before = self.peak = _resident()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, _resident())

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self.peak = max(self.peak, _resident())


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_back() -> None:
    """Have the allocator return what it keeps free, which else would hide a part of a peak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
