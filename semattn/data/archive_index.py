"""Index of tar archives on disk: each archive is listed once, for all processes and runs.

A file of the index is used as long as the archive has the size and times, or the version on its
store, that it had when it was listed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import SemattnError
from ..images.archive_members import ArchiveMembers
from ..images.archives import PackedWords, Scan, scan
from ..utils.atomic_files import DAMAGE, read_about, read_arrays, write_arrays
from ..utils.input_identity import NO_STAMP, stamp_of
from ..utils.remote_path import THREADS, Location, RemotePath

VERSION = 1  # of the format
_WORDS = "words-"  # start of the names of arrays with labels; the extension follows


def scan_archives(
    archives: Sequence[Location], index_dir: Path | None = None
) -> list[Scan | SemattnError]:
    """Return the contents of each archive, or the error of one that cannot be opened.

    Processes that list the same archives at the same time start at different ones, so that each
    lists a part, and reads the index of the others for the rest.

    Parameters
    ----------
    archives : tar files
    index_dir : folder of the index; None for none
    """
    order = list(range(len(archives)))
    if index_dir is not None:
        order = np.random.default_rng(os.getpid()).permutation(order).tolist()

    def contents(number: int) -> Scan | SemattnError:
        try:
            return read_or_scan(archives[number], index_dir)
        except SemattnError as error:
            return error

    is_remote = any(isinstance(archive, RemotePath) for archive in archives)
    with ThreadPoolExecutor(THREADS if is_remote else 1) as pool:
        by_number = dict(zip(order, pool.map(contents, order), strict=True))
    return [by_number[number] for number in range(len(archives))]


def read_or_scan(archive: Location, index_dir: Path | None) -> Scan:
    """Return the contents of an archive from the index; without a valid entry, list the archive.

    A damaged archive is listed each time: it may be completed, or the network may have failed.
    """
    if index_dir is None:
        return scan(archive)
    stamp = stamp_of(archive)  # before the archive is read, so that a later edit is detected
    address = str(archive if isinstance(archive, RemotePath) else archive.absolute())
    name = hashlib.sha256(address.encode("utf-8", "surrogateescape")).hexdigest()
    file = index_dir / f"{name[:32]}.npz"
    entry = {"version": VERSION, "archive": address, "stamp": list(stamp)}
    stored_index = None if stamp == NO_STAMP else _read(file, archive, entry)
    if stored_index is not None:
        return stored_index
    contents = scan(archive)
    if stamp != NO_STAMP and not contents.broken:
        _write(file, contents, entry)
    return contents


def _read(file: Path, archive: Location, entry: dict[str, object]) -> Scan | None:
    """Return the contents from a file of the index; None if it is missing, damaged or stale."""
    try:
        arrays = read_arrays(file)
        about = read_about(arrays)
        hidden, unreadable = about.pop("hidden"), about.pop("unreadable")
        if about != entry:
            return None
        names, ends = arrays["names"].tobytes(), arrays["ends"]
        members = ArchiveMembers(archive, names, ends, arrays["offsets"], arrays["sizes"])
        words = {
            key.removeprefix(_WORDS): PackedWords.packed(values.tobytes())
            for key, values in arrays.items() if key.startswith(_WORDS)
        }  # fmt: skip
    except DAMAGE:
        return None
    return Scan(members, words, int(hidden), int(unreadable))


def _write(file: Path, contents: Scan, entry: dict[str, object]) -> None:
    members = contents.pictures
    assert isinstance(members, ArchiveMembers)
    arrays = {
        "names": np.frombuffer(members.names, np.uint8), "ends": members.ends,
        "offsets": members.offsets, "sizes": members.sizes,
    } | {
        f"{_WORDS}{ending}": np.frombuffer(words.content, np.uint8)
        for ending, words in contents.words.items()
    }  # fmt: skip
    about = entry | {"hidden": contents.hidden, "unreadable": contents.unreadable}
    with suppress(OSError):  # a full disk: the archive is listed again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(file, arrays, json.dumps(about))
