"""Pictures and labels in WebDataset tar archives, listed by header and read by offset.

The members of a sample have equal names without extension: ``n01440764_18.jpg`` and
``n01440764_18.cls``.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath

from PIL import Image

from ..errors import ImageError, plain
from ..utils.remote_path import Location, LocationLike, to_path
from ..utils.text import decode
from .archive_members import ArchiveMembers, TarMember

LABELS = ("cls", "cls.txt", "label", "label.txt", "class", "class.txt")  # hold a class
LATER_LABELS = ("json", "txt")  # used if there are none of LABELS
JSON_KEYS = ("label", "cls", "class", "class_id", "label_id", "target", "class_name")
LONGEST_LABEL, LONGEST_JSON = 256, 65536  # bytes

# Errors that tarfile raises for damaged headers.
_DAMAGE = (
    tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip


class PackedWords:
    """Labels of an archive by the name of the member without extension, as JSON in bytes."""

    def __init__(self, words: Mapping[str, str]) -> None:
        self.content = json.dumps(words, separators=(",", ":")).encode("ascii")

    @classmethod
    def packed(cls, content: bytes) -> PackedWords:
        """Return the labels whose JSON is given."""
        words = cls({})
        words.content = content
        return words

    def unpacked(self) -> dict[str, str]:
        """Return the labels by name."""
        words: dict[str, str] = json.loads(self.content)
        return words


@dataclass(frozen=True)
class Scan:
    """Contents of an archive, from its headers.

    Parameters
    ----------
    pictures : all pictures
    words : extension of a label -> texts of the labels
    hidden : number of hidden system files, such as ``._a.jpg``
    unreadable : number of labels that are not text
    broken : description of the damage; "" for none
    """

    pictures: Sequence[TarMember]
    words: Mapping[str, PackedWords]
    hidden: int = 0
    unreadable: int = 0
    broken: str = ""


def scan(archive: LocationLike) -> Scan:
    """Read the headers and labels of a tar file, without its pictures.

    For a damaged archive, return the members before the damage, and describe it in `broken`.
    Compressed archives are refused, since their members cannot be read by offset.

    Raises
    ------
    ImageError
        For a file that cannot be opened, or that is not a tar archive.
    """
    path = to_path(archive)
    reader = _ArchiveReader(path)
    broken = ""
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            size = stream.seek(0, os.SEEK_END)
            try:
                reader.read(tar, size)
            except _DAMAGE as error:
                last_name = reader.pictures[-1].name if reader.pictures else "the beginning"
                broken = plain(
                    f"the archive is damaged after {last_name} ({error}): what follows is missing"
                )
            with suppress(*_DAMAGE):
                reader.read_later_labels(tar)
    except _DAMAGE as error:
        raise ImageError(
            f"archive: expected a tar file that is not compressed, got {path} ({error}) — "
            "unpack it, or write it again"
        ) from error
    words = {ending: PackedWords(texts) for ending, texts in reader.words.items() if texts}
    pictures = ArchiveMembers.of(path, reader.pictures)
    return Scan(pictures, words, reader.hidden, reader.unreadable, broken)


class _ArchiveReader:
    """Reader of the headers of one archive."""

    def __init__(self, path: Location) -> None:
        self.path = path
        self.pictures: list[TarMember] = []
        self.words: dict[str, dict[str, str]] = {}
        self.later: list[tuple[tarfile.TarInfo, str, str]] = []
        self.hidden = self.unreadable = 0

    def read(self, tar: tarfile.TarFile, size: int) -> None:
        """Add every member of an archive of `size` bytes."""
        endings = {suffix for suffix in Image.registered_extensions() if suffix != ".pdf"}
        previous_offset = -1
        for member in tar:
            if member.size < 0 or member.offset <= previous_offset:  # prevents an endless loop
                raise tarfile.ReadError("invalid member size or offset")
            previous_offset = member.offset
            if not member.isreg():
                continue
            if member.offset_data + member.size > size:
                raise tarfile.ReadError("unexpected end of data")
            folder, _, base = member.name.rpartition("/")
            suffix = PurePosixPath(base).suffix.lower()
            if base.startswith(".") or "__MACOSX" in folder.split("/"):
                self.hidden += 1
            elif suffix in endings:
                picture = TarMember(self.path, member.name, member.offset_data, member.size)
                self.pictures.append(picture)
            elif suffix in _LABEL_SUFFIXES:
                self._add_label(tar, member, suffix)
        if size < tar.offset + tarfile.BLOCKSIZE:  # complete archives end with zeros
            raise tarfile.ReadError("end marker is missing")

    def _add_label(self, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> None:
        lower = member.name.lower()
        ending = next(
            (label for label in _LONGEST_FIRST if lower.endswith(f".{label}")), suffix[1:]
        )
        stem = member.name[: -len(ending) - 1]
        if ending in LATER_LABELS:
            self.later.append((member, stem, ending))
        else:
            self._store_word(ending, stem, self._read_content(tar, member, LONGEST_LABEL))

    def read_later_labels(self, tar: tarfile.TarFile) -> None:
        """Read labels from JSON and text files, if no other member has labels."""
        if self.words:
            return
        for member, stem, ending in self.later:
            longest = LONGEST_JSON if ending == "json" else LONGEST_LABEL
            if member.size > longest:  # a caption, or other data
                continue
            content = self._read_content(tar, member, longest)
            if ending == "json" and content is not None:
                content = _json_label(content)
                if content is None:
                    continue
            self._store_word(ending, stem, content)

    def _read_content(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, longest: int
    ) -> bytes | None:
        stream = tar.extractfile(member) if member.size <= longest else None
        return None if stream is None else stream.read(longest)

    def _store_word(self, ending: str, stem: str, content: bytes | None) -> None:
        try:
            word = decode(content)[0].strip() if content is not None else None
        except ValueError:
            word = None
        if word is None:
            self.unreadable += 1
        else:
            self.words.setdefault(ending, {})[stem] = word


_LONGEST_FIRST = sorted(LABELS, key=len, reverse=True)
_LABEL_SUFFIXES = {f".{label.rpartition('.')[2]}" for label in (*LABELS, *LATER_LABELS)}


def _json_label(content: bytes) -> bytes | None:
    """Return the label in the JSON of a sample; None without one."""
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return None
    keys = [key for key in JSON_KEYS if key in fields] if isinstance(fields, dict) else []
    if not keys or not isinstance(fields[keys[0]], str | int):
        return None
    return str(fields[keys[0]]).encode()
