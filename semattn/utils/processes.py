"""Long-running processes: locks on files, exit on SIGTERM, processor cores, progress callbacks.

A lock is advisory. One process holds it, and the system releases it when that process ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from ..errors import SemattnError
from .atomic_files import STALE_SECONDS

if TYPE_CHECKING:
    from torch import nn

PATIENCE = 0.2  # seconds to wait for a lock that another process holds
_held_descriptors: set[int] = set()  # descriptors of the locks of this process


class LockedError(SemattnError, OSError):
    """Error for a folder in which another process is running."""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on `file`, which is created and kept.

    Does nothing on a file system without locks.

    Raises
    ------
    LockedError
        If another process, or another thread of this one, holds the lock; the message names it.
    """
    owner, descriptor = os.getpid(), os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock_with_retry(descriptor):
            folder = file.parent.parent
            raise LockedError(
                f"out: expected a folder that no other process writes to, got {folder}, where "
                f"{_read_holder(descriptor)} is running — wait for it, or choose another folder"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
        _held_descriptors.add(descriptor)
        yield
    finally:
        if os.getpid() == owner:
            _held_descriptors.discard(descriptor)
            _unlock(descriptor)
            os.close(descriptor)


def is_locked(file: Path) -> bool:
    """Return whether another process, or another thread of this one, holds the lock on `file`."""
    return bool(holder_of(file))


def holder_of(file: Path) -> str:
    """Return a text that names the process that holds the lock on `file`; "" if it is free."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        return "" if _try_lock(descriptor) else _read_holder(descriptor)
    finally:
        os.close(descriptor)


def remove_unlocked(parent: Path, prefix: str, lock: str) -> None:
    """Remove the temporary folders of processes that have ended.

    Parameters
    ----------
    parent : the folder that contains them
    prefix : beginning of their names
    lock : path of the lock in each; a folder without it is kept
    """
    for folder in parent.glob(f"{prefix}*"):
        try:
            is_old = time.time() - folder.stat().st_mtime > STALE_SECONDS
            if is_old and not is_locked(folder / lock):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # removed by another process, or owned by another user
            continue


def _read_holder(descriptor: int) -> str:
    text = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
    return text or "another process"


def _lock_with_retry(descriptor: int) -> bool:
    """Take the lock, and retry for `PATIENCE`: `is_locked` holds a lock for a moment."""
    end = time.monotonic() + PATIENCE
    while not _try_lock(descriptor):
        if time.monotonic() > end:
            return False
        time.sleep(PATIENCE / 10)
    return True


def _try_lock(descriptor: int) -> bool:
    """Lock until the descriptor is closed; return False if another process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def _unlock(descriptor: int) -> None:
    """Release the lock, also for a child process that was just forked."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _release_in_child() -> None:
    """Close the parent's locks in a forked process, which would hold them after the parent ends."""
    while _held_descriptors:
        os.close(_held_descriptors.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)


def own_cores() -> int:
    """Return the cores of the machine, divided by the number of processes of torchrun."""
    return (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def spare_cores(model: nn.Module) -> int:
    """Return the cores that a model on the CPU leaves free; at least 1 for other devices."""
    import torch  # not needed for locks

    if any(weight.device.type != "cpu" for weight in model.parameters()):
        return max(1, own_cores() - 1)
    return max(0, own_cores() - torch.get_num_threads())


@contextmanager
def exits_on_termination() -> Iterator[None]:
    """Exit on SIGTERM as with `sys.exit`, so that temporary folders are removed.

    Does nothing outside the main thread, or if the caller handles the signal.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


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
