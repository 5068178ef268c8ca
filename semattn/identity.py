"""Identity of input files: what must agree before kept work is used again.

A file that has the size and the times of change that were noted is taken to be the same and is not
read. The time of change of its entry (`ctime`) is among them: it moves with every write and cannot
be set back. Where they differ (the file was edited, copied or moved to another disk), the SHA-256
of the content decides.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Stamp = tuple[int, int, int]  # bytes, time of last write and of last change, nanoseconds
NO_STAMP: Stamp = (-1, 0, 0)
UNREADABLE = "unreadable"
_BLOCK = 2**20


def identity_of(source: Any, name: str, label: int | None = None) -> str:
    """Return one line that identifies an input: its name, its label, its stamp, its content.

    Parameters
    ----------
    source : a path, a member of an archive, bytes, an array, a tensor or a PIL image
    name : its path relative to the data set
    label : its class number, None without one
    """
    stamp = stamp_of(source)  # before the content is read: a later edit then shows
    return json.dumps([name, label, list(stamp), content_digest(source)])


def is_unchanged(identity: str, source: Any, name: str, label: int | None = None) -> bool:
    """Return whether an input is the one that a line of `identity_of` describes."""
    try:
        old_name, old_label, old_stamp, old_digest = json.loads(identity)
        old_stamp = tuple(old_stamp)
    except (ValueError, TypeError):
        return False
    if (old_name, old_label) != (name, label):
        return False
    if old_stamp != NO_STAMP and old_stamp == stamp_of(source):
        return True
    return bool(old_digest == content_digest(source))


def all_unchanged(
    identities: Sequence[str], sources: Sequence[Any], names: Sequence[str],
    labels: Sequence[int | None],
) -> bool:  # fmt: skip
    """Return whether inputs are those that were noted, in the same order."""
    if not len(identities) == len(sources) == len(names) == len(labels):
        return False
    return all(map(is_unchanged, identities, sources, names, labels))


def to_array(identities: Iterable[str]) -> np.ndarray:
    """Return lines of `identity_of` as one array of bytes, (n,) uint8, for an ``.npz``."""
    import numpy as np

    return np.frombuffer("\n".join(identities).encode("ascii"), dtype=np.uint8)


def from_array(array: np.ndarray | None) -> list[str]:
    """Return the lines that `to_array` was called with; an empty list for another array."""
    if array is None or str(array.dtype) != "uint8":
        return []
    return array.tobytes().decode("ascii", "replace").splitlines()


def content_of(identity: str) -> tuple[str, str]:
    """Return the name of an input, and label and content as one text, from its line."""
    name, label, _, digest = json.loads(identity)
    return str(name), f"{label} {digest}"


def combined(identities: Iterable[str]) -> str:
    """Return the SHA-256 of the names, labels and contents of inputs; stamps have no part in it."""
    total = hashlib.sha256()
    for identity in identities:
        total.update(json.dumps(content_of(identity)).encode() + b"\n")
    return total.hexdigest()


def stamp_of(source: Any) -> Stamp:
    """Return size and times of change of a file; `NO_STAMP` for what is no file."""
    file = getattr(source, "archive", source)  # a member changes with its archive
    if not isinstance(file, (str, os.PathLike)):
        return NO_STAMP
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return NO_STAMP
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_digest(source: Any) -> str:
    """Return the SHA-256 of a file's bytes, of a member's, or of type, shape and values of others.

    A file that cannot be read has `UNREADABLE` in its place.
    """
    total = hashlib.sha256()
    try:
        if isinstance(source, (str, os.PathLike)):
            with Path(source).open("rb") as stream:
                while block := stream.read(_BLOCK):
                    total.update(block)
            return total.hexdigest()
        if hasattr(source, "read_bytes"):
            return hashlib.sha256(source.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return UNREADABLE
    if isinstance(source, (bytes, bytearray, memoryview)):
        return hashlib.sha256(source).hexdigest()
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = source.float() if str(source.dtype) == "torch.bfloat16" else source
    import numpy as np

    values = np.ascontiguousarray(source)
    mode = getattr(source, "mode", "")  # of a PIL image
    mode = mode if isinstance(mode, str) else ""
    total.update(f"{values.dtype} {values.shape} {mode}\n".encode())
    total.update(values.tobytes())
    return total.hexdigest()
