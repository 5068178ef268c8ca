"""Pictures in tar archives, as WebDataset has them: found by their headers, read by place.

A sample is all members of one name without its ending: ``n01440764_18.jpg``, ``n01440764_18.cls``.
"""

from __future__ import annotations

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from semattn.errors import ImageError, plain

LABEL = ".cls"  # the ending of a member that holds a class number
LONGEST_LABEL = 64  # bytes

# What tarfile raises of headers that are damaged or lie.
_DAMAGE = (
    tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class TarMember:
    """One picture in an archive. `semattn.images.read` takes it.

    Parameters
    ----------
    archive : the file
    name : of the member
    offset, size : where its bytes lie in the file
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive.name}/{self.name}"

    def read_bytes(self) -> bytes:
        """The bytes of the picture, encoded as they are."""
        with self.archive.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


@dataclass(frozen=True)
class Archive:
    """What an archive holds: its pictures, a class number for each or None, and what is broken."""

    pictures: tuple[TarMember, ...]
    labels: tuple[int | None, ...]
    broken: str = ""


def members(archive: str | os.PathLike[str]) -> Archive:
    """The pictures of a tar file, by its headers; no picture is read.

    A damaged archive gives what comes before the damage, and says in `broken` what that is.
    Compressed archives are refused, since nothing in them can be read by its place.

    Raises
    ------
    ImageError
        For a file that cannot be opened, or that is no tar archive.
    """
    path = Path(archive)
    found: dict[str, TarMember] = {}
    labels: dict[str, int] = {}
    broken = ""
    try:
        with tarfile.open(path, mode="r:") as opened:
            try:
                _list(opened, path, found, labels)
            except _DAMAGE as error:
                last = next(reversed(found.values())).name if found else "the beginning"
                broken = plain(
                    f"the archive is damaged after {last} ({error}): what follows is missing"
                )
    except _DAMAGE as error:
        raise ImageError(
            f"archive: expected a tar file that is not compressed, got {path} ({error}) — "
            "unpack it, or write it anew"
        ) from error
    return Archive(tuple(found.values()), tuple(labels.get(key) for key in found), broken)


def _list(
    opened: tarfile.TarFile, path: Path, found: dict[str, TarMember], labels: dict[str, int]
) -> None:
    """Enter the pictures and the class numbers of an archive by their keys."""
    endings = {one for one in Image.registered_extensions() if one != ".pdf"}
    whole, last = path.stat().st_size, -1
    for one in opened:
        if one.size < 0 or one.offset <= last:  # or it would be gone through in circles
            raise tarfile.ReadError("a member of less than nothing")
        last = one.offset
        key, ending = _parted(one.name)
        if not one.isreg():
            continue
        if one.offset_data + one.size > whole:
            raise tarfile.ReadError("unexpected end of data")
        if ending in endings:
            found.setdefault(key, TarMember(path, one.name, one.offset_data, one.size))
        elif ending == LABEL and one.size <= LONGEST_LABEL:
            text = opened.extractfile(one)
            said = b"" if text is None else text.read(LONGEST_LABEL)
            if said.strip().isdigit():
                labels[key] = int(said)
    if whole < opened.offset + tarfile.BLOCKSIZE:  # every whole one ends with zeros
        raise tarfile.ReadError("no mark of its end")


def _parted(name: str) -> tuple[str, str]:
    """The key of a sample and the ending of a member, in small letters."""
    base = PurePosixPath(name).name
    stem, dot, ending = base.partition(".")
    last = PurePosixPath(ending).suffix or dot + ending
    return name[: len(name) - len(base)] + stem, last.lower()
