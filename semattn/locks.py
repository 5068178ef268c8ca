"""Advisory locks on files: held by one process, released by the system when that process ends."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import SemattnError
from .files import STALE_SECONDS

PATIENCE = 0.2  # seconds that a held lock is waited for
_held: set[int] = set()  # descriptors of the locks of this process


class LockedError(SemattnError, OSError):
    """A folder in which another process is at work."""


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on `file`, which is created and stays there.

    Where the file system has no locks, nothing is locked and nothing is refused.

    Raises
    ------
    LockedError
        While another process, or another thread of this one, holds it; the message names it.
    """
    owner, descriptor = os.getpid(), os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _lock_soon(descriptor):
            folder = file.parent.parent
            raise LockedError(
                f"out: expected a folder that no other process writes to, got {folder}, where "
                f"{_holder(descriptor)} is at work — wait for it, or choose another folder"
            )
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} of {socket.gethostname()}\n".encode())
        _held.add(descriptor)
        yield
    finally:
        if os.getpid() == owner:
            _held.discard(descriptor)
            _unlock(descriptor)
            os.close(descriptor)


def is_locked(file: Path) -> bool:
    """Return whether another process, or another thread of this one, holds the lock on `file`."""
    return bool(holder_of(file))


def holder_of(file: Path) -> str:
    """Return the process that holds the lock on `file`, "" where no process does."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        return "" if _lock(descriptor) else _holder(descriptor)
    finally:
        os.close(descriptor)


def remove_unlocked(parent: Path, prefix: str, lock: str) -> None:
    """Remove temporary folders that processes which no longer run left in a folder.

    Parameters
    ----------
    parent : the folder that they lie in
    prefix : beginning of their names
    lock : path of the lock in each; a folder without it is left alone
    """
    for folder in parent.glob(f"{prefix}*"):
        try:
            is_old = time.time() - folder.stat().st_mtime > STALE_SECONDS
            if is_old and not is_locked(folder / lock):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # another process removed it, or it is not ours
            continue


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
    return text or "another process"


def _lock_soon(descriptor: int) -> bool:
    """Take the lock; wait shortly where it is held, because `is_locked` holds one for a moment."""
    end = time.monotonic() + PATIENCE
    while not _lock(descriptor):
        if time.monotonic() > end:
            return False
        time.sleep(PATIENCE / 10)
    return True


def _lock(descriptor: int) -> bool:
    """Take the lock until the descriptor is closed; False where another holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock: there, nothing is locked
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return True
    return True


def _unlock(descriptor: int) -> None:
    """Release the lock also for a process that was forked a moment ago."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _release_in_child() -> None:
    """Close the locks of the parent, which a forked process would hold after the parent's end."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
