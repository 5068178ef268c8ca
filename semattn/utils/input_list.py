"""Identities of a list of inputs, and the difference between two lists.

The identities are lines of `semattn.utils.identity`. A file with a stored line and an unchanged
stamp is not read again: it costs one call of `stat`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import plain
from .identity import NO_STAMP, UNREADABLE, identity_of, stamp_of

Lines: TypeAlias = "Mapping[str, tuple[tuple[int, ...], str]]"  # stamp and line, by name
EXAMPLES = 3  # names of each kind that a message lists


def input_names(sources: Sequence[Any]) -> list[str]:
    """Return the name of each input of a list.

    The name of a file is its path relative to the common folder, that of an archive member its
    path in the archive, that of another value its number.

    Examples
    --------
    >>> input_names(["photos/cat/1.png", "photos/2.png", b"bytes"])
    ['cat/1.png', '2.png', 'image 2']
    """
    files = [
        os.fspath(source) if isinstance(source, (str, os.PathLike)) else None for source in sources
    ]
    folders = dict.fromkeys(os.path.split(file)[0] for file in files if file is not None)
    paths = {folder: str(Path(folder).absolute()) for folder in folders}
    root = os.path.commonpath(paths.values()) if paths else ""
    below = {folder: os.path.relpath(path, root) for folder, path in paths.items()}
    names = []
    for number, (file, source) in enumerate(zip(files, sources, strict=True)):
        if file is None:
            names.append(str(source) if hasattr(source, "archive") else f"image {number}")
            continue
        folder, base = os.path.split(file)
        folder = below[folder]
        names.append(base if folder == os.curdir else f"{folder}/{base}")
    return names


def identify(
    sources: Sequence[Any],
    names: Sequence[str] | None = None,
    stored_lines: Lines | None = None,
    workers: int | None = None,
) -> list[str]:
    """Return the identity line of each input; read only files without a valid stored line.

    Parameters
    ----------
    sources : inputs, as for `semattn.utils.identity.identity_of`
    names : names of the inputs; None uses `input_names`
    stored_lines : lines of an earlier call, as returned by `lines_by_name`
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


def contents(lines: Iterable[str]) -> list[str]:
    """Return the SHA-256 of the content of each input, from its line."""
    return [str(json.loads(line)[3]) for line in lines]


@dataclass(frozen=True)
class Changes:
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


def changes(before: Sequence[str], after: Sequence[str]) -> Changes | None:
    """Return the difference between two lists of lines; None for equal contents in equal order."""
    if contents(before) == contents(after):
        return None
    old, new = (dict(_name_line_pairs(lines)) for lines in (before, after))
    edited = (
        name for name in new if name in old and contents([old[name]]) != contents([new[name]])
    )
    return Changes(
        tuple(edited),
        tuple(name for name in new if name not in old),
        tuple(name for name in old if name not in new),
    )


def _name_line_pairs(lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    return ((str(json.loads(line)[0]), line) for line in lines)


def lines_by_name(lines: Iterable[str]) -> dict[str, tuple[tuple[int, ...], str]]:
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
