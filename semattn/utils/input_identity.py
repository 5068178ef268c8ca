"""Identity of input files, which must be unchanged before stored results are used again.

A file with the recorded size and times of change counts as unchanged and is not read. The times
include `ctime`, which changes with each write and cannot be set back. A remote file counts as
unchanged with the recorded size and version (its ETag, checksum or time). If they differ (the file
was edited, copied or moved to another disk), the SHA-256 of the content decides.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import plain
from .remote_path import RemotePath, is_stored_file

if TYPE_CHECKING:
    import numpy as np


Stamp = tuple[int, int, int]  # bytes, time of last write and of last change, nanoseconds
NO_STAMP: Stamp = (-1, 0, 0)
UNREADABLE = "unreadable"
StoredIdentities: TypeAlias = "Mapping[str, tuple[tuple[int, ...], str]]"  # stamp and line, by name
EXAMPLES = 3  # names of each kind that a message lists
_BLOCK = 2**20


def identity_of(source: Any, name: str, label: int | None = None) -> str:
    """Return one line that identifies an input: name, label, stamp and SHA-256 of the content.

    Parameters
    ----------
    source : a path, a remote file, a member of an archive, bytes, an array, a tensor or a PIL image
    name : its path relative to the data set
    label : its class number, None without one
    """
    stamp = stamp_of(source)  # before the content is read, so that a later edit is detected
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
    if old_stamp != NO_STAMP and old_digest != UNREADABLE and old_stamp == stamp_of(source):
        return True  # what could not be read, such as after a fault of the network, is tried again
    return bool(old_digest == content_digest(source))


def all_unchanged(
    identities: Sequence[str], sources: Sequence[Any], names: Sequence[str],
    labels: Sequence[int | None],
) -> bool:  # fmt: skip
    """Return whether all inputs are unchanged and in the same order."""
    if not len(identities) == len(sources) == len(names) == len(labels):
        return False
    return all(map(is_unchanged, identities, sources, names, labels))


def identities_to_array(identities: Iterable[str]) -> np.ndarray:
    """Return lines of `identity_of` as one array of bytes, (n,) uint8."""
    import numpy as np

    return np.frombuffer("\n".join(identities).encode("ascii"), dtype=np.uint8)


def identities_from_array(array: np.ndarray | None) -> list[str]:
    """Return the lines given to `identities_to_array`; an empty list for another array."""
    if array is None or array.dtype.name != "uint8":
        return []
    return array.tobytes().decode("ascii", "replace").splitlines()


def name_and_content(identity: str) -> tuple[str, str]:
    """Return the name of an input, and one text of its label and content digest, from its line."""
    name, label, _, digest = json.loads(identity)
    return str(name), f"{label} {digest}"


def combined_digest(identities: Iterable[str]) -> str:
    """Return the SHA-256 of the names, labels and contents of inputs, without their stamps."""
    total = hashlib.sha256()
    for identity in identities:
        total.update(json.dumps(name_and_content(identity)).encode() + b"\n")
    return total.hexdigest()


def stamp_of(source: Any) -> Stamp:
    """Return size and times of change, or version, of a file; `NO_STAMP` for other values."""
    file = getattr(source, "archive", source)  # a member has the stamp of its archive
    if hasattr(file, "stamp"):
        try:
            stamp: Stamp = file.stamp()
        except OSError:
            return NO_STAMP
        return stamp
    if not isinstance(file, (str, os.PathLike)):
        return NO_STAMP
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return NO_STAMP
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def content_digest(source: Any) -> str:
    """Return the SHA-256 of the bytes of a file or member, or of type, shape and values of others.

    For a file that cannot be read, return `UNREADABLE`.
    """
    total = hashlib.sha256()
    try:
        if isinstance(source, (str, os.PathLike)):
            with Path(source).open("rb") as stream:
                while block := stream.read(_BLOCK):
                    total.update(block)
            return total.hexdigest()
        if is_stored_file(source):
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


def input_names(sources: Sequence[Any]) -> list[str]:
    """Return the name of each input of a list.

    The name of a file is its path relative to the common folder, that of an archive member or a row
    of a data set its path in there, that of another value its number.

    Examples
    --------
    >>> input_names(["photos/cat/1.png", "photos/2.png", b"bytes"])
    ['cat/1.png', '2.png', 'image 2']
    """
    files = [
        source.url if isinstance(source, RemotePath)
        else os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        for source in sources
    ]  # fmt: skip
    folders = dict.fromkeys(os.path.split(file)[0] for file in files if file is not None)
    paths = {folder: str(Path(folder).absolute()) for folder in folders}
    root = os.path.commonpath(paths.values()) if paths else ""
    below = {folder: os.path.relpath(path, root) for folder, path in paths.items()}
    names = []
    for number, (file, source) in enumerate(zip(files, sources, strict=True)):
        if file is None:
            names.append(str(source) if is_stored_file(source) else f"image {number}")
            continue
        folder, base = os.path.split(file)
        folder = below[folder]
        names.append(base if folder == os.curdir else f"{folder}/{base}")
    return names


def identify_inputs(
    sources: Sequence[Any],
    names: Sequence[str] | None = None,
    stored_lines: StoredIdentities | None = None,
    workers: int | None = None,
) -> list[str]:
    """Return the identity line of each input; read only files without a valid stored line.

    Parameters
    ----------
    sources : inputs, as for `semattn.utils.input_identity.identity_of`
    names : names of the inputs; None uses `input_names`
    stored_lines : lines of an earlier call, as returned by `stored_identities`
    workers : number of threads that read files
    """
    names = input_names(sources) if names is None else names
    stored = stored_lines or {}
    lines: list[str | None] = []
    for source, name in zip(sources, names, strict=True):
        stamp, line = stored.get(name, (NO_STAMP, ""))
        lines.append(line if stamp != NO_STAMP and stamp == stamp_of(source) else None)
    missing = [number for number, line in enumerate(lines) if line is None]
    with ThreadPoolExecutor(workers) as pool:
        computed = pool.map(lambda number: identity_of(sources[number], names[number]), missing)
        for number, line in zip(missing, computed, strict=True):
            lines[number] = line
    return [line for line in lines if line is not None]


def content_digests(lines: Iterable[str]) -> list[str]:
    """Return the SHA-256 of the content of each input, from its line."""
    return [str(json.loads(line)[3]) for line in lines]


@dataclass(frozen=True)
class InputChanges:
    """Difference between two lists of inputs.

    Parameters
    ----------
    edited, added, removed : names of the inputs of each kind
    """

    edited: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        """Return counts and example names: "1 edited (cat/1.png), 2 added (a.png, b.png)"."""
        kinds = {"edited": self.edited, "added": self.added, "removed": self.removed}
        parts = []
        for kind, names in kinds.items():
            if names:
                more = ", …" if len(names) > EXAMPLES else ""
                shown = ", ".join(plain(name) for name in names[:EXAMPLES])
                parts.append(f"{len(names)} {kind} ({shown}{more})")
        return ", ".join(parts) or "another order"


def find_changes(before: Sequence[str], after: Sequence[str]) -> InputChanges | None:
    """Return the difference between two lists of lines; None for equal contents in equal order."""
    if content_digests(before) == content_digests(after):
        return None
    old, new = (dict(_name_line_pairs(lines)) for lines in (before, after))
    edited = (
        name
        for name in new
        if name in old and content_digests([old[name]]) != content_digests([new[name]])
    )
    return InputChanges(
        tuple(edited),
        tuple(name for name in new if name not in old),
        tuple(name for name in old if name not in new),
    )


def _name_line_pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((str(json.loads(line)[0]), line) for line in lines)


def stored_identities(lines: Iterable[str]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return stamp and line by name, without damaged lines and lines of unreadable files."""
    entries = {}
    for line in lines:
        try:
            name, _, stamp, digest = json.loads(line)
            if digest != UNREADABLE:
                entries[str(name)] = (tuple(stamp), line)
        except (ValueError, TypeError):
            continue
    return entries
