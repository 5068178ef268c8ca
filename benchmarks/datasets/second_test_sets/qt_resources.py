"""Reader of Qt's binary resource files (`.rcc`), in which GCompris stores its pictures."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

COMPRESSED, DIRECTORY, ZSTANDARD = 1, 2, 4
HEADER = struct.Struct(">4sIIII")  # magic, version, offsets of tree, data and names


def read_resources(data: bytes, names: Collection[str]) -> dict[str, bytes]:
    """Return the content of the named files of a resource file.

    Parameters
    ----------
    data : a whole `.rcc` file
    names : full paths without a leading slash; others are not read

    Raises
    ------
    ValueError
        For a file of another format, and for a named file with Zstandard compression.
    """
    magic, version, tree, content, texts = HEADER.unpack_from(data)
    if magic != b"qres" or version not in (1, 2, 3):
        raise ValueError(
            f"resources: expected a Qt resource file of version 1 to 3, got {magic!r}, version "
            f"{version} — give a .rcc file"
        )
    node_size = 14 if version == 1 else 22
    files: dict[str, bytes] = {}
    for name, flags, offset in _walk(data, tree, texts, node_size, 0, ""):
        if name not in names:
            continue
        (size,) = struct.unpack_from(">I", data, content + offset)
        stored = data[content + offset + 4 : content + offset + 4 + size]
        if flags & ZSTANDARD:
            raise ValueError(
                f"{name}: expected zlib or no compression, got Zstandard — report this"
            )
        files[name] = zlib.decompress(stored[4:]) if flags & COMPRESSED else stored
    return files


def _walk(
    data: bytes, tree: int, texts: int, node_size: int, node: int, folder: str
) -> Iterator[tuple[str, int, int]]:
    """Yield path, flags and offset of the content of every file below a node."""
    text, flags, first, second = struct.unpack_from(">IHII", data, tree + node * node_size)
    path = folder
    if node:  # the root has no name
        (length,) = struct.unpack_from(">H", data, texts + text)
        start = texts + text + 6  # length and hash stand before the characters
        name = data[start : start + 2 * length].decode("utf-16-be")
        path = f"{folder}/{name}" if folder else name
    if not flags & DIRECTORY:
        yield path, flags, second
        return
    for child in range(second, second + first):
        yield from _walk(data, tree, texts, node_size, child, path)
