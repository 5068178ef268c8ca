"""Profiling of a call: wall time, and additional peak memory.

Work on an accelerator is timed until it ends. This module knows nothing of models.
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

_STATM = Path("/proc/self/statm")  # Linux: memory of this process in pages; the 2nd is resident
_POLL_SECONDS = 0.002
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Wall time in seconds, and peak memory in MiB; None if it cannot be measured."""

    seconds: float
    peak_mib: float | None


def profile(call: Callable[[], Any], device: torch.device) -> tuple[Any, Cost]:
    """Run `call`, and return its result and its cost.

    On CUDA, the memory is the peak that torch allocates during the call, less the amount before.
    On a CPU under Linux it is the peak resident memory of the process, polled every 2 ms, less the
    amount before: shorter peaks are missed and other threads are included, so that differences of
    a few MiB are noise. On other systems it is None.

    Examples
    --------
    >>> result, cost = profile(lambda: 6 * 7, torch.device("cpu"))
    >>> result, cost.seconds < 1
    (42, True)
    """
    _synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result, seconds = _time_call(call, device)
        return result, Cost(seconds, (torch.cuda.max_memory_allocated(device) - before) / _MIB)
    if device.type == "cpu" and _STATM.exists():
        with _MemoryMonitor() as monitor:
            result, seconds = _time_call(call, device)
        return result, Cost(seconds, (monitor.peak - monitor.before) / _MIB)
    result, seconds = _time_call(call, device)
    return result, Cost(seconds, None)


def _time_call(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    start = time.perf_counter()
    result = call()
    _synchronize(device)
    return result, time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class _MemoryMonitor:
    """Monitor of the resident memory of this process, in a separate thread."""

    def __enter__(self) -> _MemoryMonitor:
        gc.collect(1)  # older objects are not collected during the call
        _trim_allocator()
        self.before = self.peak = _resident_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, _resident_bytes())

    def _poll(self) -> None:
        while not self._done.wait(_POLL_SECONDS):
            self.peak = max(self.peak, _resident_bytes())


def _resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _trim_allocator() -> None:
    """Return freed memory from the allocator to the system: it would hide a part of the peak."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only in glibc
    if trim is not None:
        trim(0)
