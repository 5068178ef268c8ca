"""Pictures in tar archives, read by offset, and compact sequences of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

import numpy as np

from ..utils.remote_path import Location, RemotePath

NAME_CODE = ("utf-8", "surrogateescape")  # as tarfile reads names


@dataclass(frozen=True)
class TarMember:
    """Picture in a tar archive, as accepted by `semattn.images.read`.

    Parameters
    ----------
    archive : the tar file, local or remote
    name : name of the member
    offset, size : position and number of its bytes in the file
    """

    archive: Location
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive.name}/{self.name}"

    def read_bytes(self) -> bytes:
        """Return the encoded bytes of the picture."""
        if isinstance(self.archive, RemotePath):
            return self.archive.read_range(self.offset, self.offset + self.size)
        with self.archive.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


class Members(Sequence[TarMember]):
    """Sequence of pictures, which are made when they are needed."""

    def __len__(self) -> int:
        raise NotImplementedError

    def member(self, number: int) -> TarMember:
        """Return the picture of a number from 0."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> TarMember: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[TarMember, ...]: ...
    def __getitem__(self, index: int | slice) -> TarMember | tuple[TarMember, ...]:
        numbers = range(len(self))[index]
        return (
            self.member(numbers) if isinstance(numbers, int) else tuple(map(self.member, numbers))
        )

    def __iter__(self) -> Iterator[TarMember]:
        return map(self.member, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


class ArchiveMembers(Members):
    """Pictures of one archive in 20 bytes each, and the bytes of the names.

    Parameters
    ----------
    archive : the tar file
    names : bytes of all names in UTF-8, one after the other
    ends : (n,) uint32, end of each name in `names`
    offsets, sizes : (n,) int64, position and number of the bytes of each picture in the file
    """

    def __init__(
        self, archive: Location, names: bytes, ends: np.ndarray, offsets: np.ndarray,
        sizes: np.ndarray,
    ) -> None:  # fmt: skip
        self.archive, self.names = archive, names
        self.ends, self.offsets, self.sizes = ends, offsets, sizes

    @classmethod
    def of(cls, archive: Location, members: Sequence[TarMember]) -> ArchiveMembers:
        """Pack pictures of an archive."""
        names = [member.name.encode(*NAME_CODE) for member in members]
        ends = np.cumsum([len(name) for name in names], dtype=np.int64).astype(np.uint32)
        offsets = np.array([member.offset for member in members], np.int64)
        sizes = np.array([member.size for member in members], np.int64)
        return cls(archive, b"".join(names), ends, offsets, sizes)

    def __len__(self) -> int:
        return len(self.ends)

    def member(self, number: int) -> TarMember:
        """Return the picture of a number from 0."""
        start = int(self.ends[number - 1]) if number else 0
        name = self.names[start : int(self.ends[number])].decode(*NAME_CODE)
        return TarMember(self.archive, name, int(self.offsets[number]), int(self.sizes[number]))


class ArchivesMembers(Members):
    """Pictures of several archives, in order."""

    def __init__(self, parts: Sequence[Sequence[TarMember]]) -> None:
        self.parts = tuple(parts)
        self.ends = list(accumulate(map(len, self.parts)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def member(self, number: int) -> TarMember:
        """Return the picture of a number from 0."""
        part = bisect_right(self.ends, number)
        return self.parts[part][number - (self.ends[part - 1] if part else 0)]
