"""Pictures and labels in tar archives of WebDataset: found by their headers, read by place.

A sample is all members of one name without its ending: ``n01440764_18.jpg``, ``n01440764_18.cls``.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from ..errors import ImageError, plain
from ..utils.text_files import decode

LABELS = ("cls", "cls.txt", "label", "label.txt", "class", "class.txt")  # hold a class
LATER_LABELS = ("json", "txt")  # looked at where there are none of LABELS
JSON_KEYS = ("label", "cls", "class", "class_id", "label_id", "target", "class_name")
LONGEST_LABEL, LONGEST_JSON = 256, 65536  # bytes

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
class Scan:
    """Members of an archive, by its headers.

    Parameters
    ----------
    pictures : every picture
    words : ending of a label -> name of the member without it -> the text of the label
    hidden : number of members that a system adds, such as ``._a.jpg``
    unreadable : number of members with labels that are no text
    broken : what is damaged, "" for nothing
    """

    pictures: tuple[TarMember, ...]
    words: Mapping[str, Mapping[str, str]]
    hidden: int = 0
    unreadable: int = 0
    broken: str = ""


def scan(archive: str | os.PathLike[str]) -> Scan:
    """Read the headers and labels of a tar file; no picture is read.

    A damaged archive gives what comes before the damage, and says in `broken` what that is.
    Compressed archives are refused, since nothing in them can be read by its place.

    Raises
    ------
    ImageError
        For a file that cannot be opened, or that is no tar archive.
    """
    path = Path(archive)
    reading = _Reading(path)
    broken = ""
    try:
        with tarfile.open(path, mode="r:") as opened:
            try:
                reading.read(opened)
            except _DAMAGE as error:
                last = reading.pictures[-1].name if reading.pictures else "the beginning"
                broken = plain(
                    f"the archive is damaged after {last} ({error}): what follows is missing"
                )
            with suppress(*_DAMAGE):
                reading.read_later_labels(opened)
    except _DAMAGE as error:
        raise ImageError(
            f"archive: expected a tar file that is not compressed, got {path} ({error}) — "
            "unpack it, or write it again"
        ) from error
    words = {ending: texts for ending, texts in reading.words.items() if texts}
    return Scan(tuple(reading.pictures), words, reading.hidden, reading.unreadable, broken)


class _Reading:
    """The members of one archive, while its headers are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures: list[TarMember] = []
        self.words: dict[str, dict[str, str]] = {}
        self.later: list[tuple[tarfile.TarInfo, str, str]] = []
        self.hidden = self.unreadable = 0

    def read(self, opened: tarfile.TarFile) -> None:
        """Enter every member."""
        endings = {suffix for suffix in Image.registered_extensions() if suffix != ".pdf"}
        size, last = self.path.stat().st_size, -1
        for member in opened:
            if member.size < 0 or member.offset <= last:  # or it would be gone through in circles
                raise tarfile.ReadError("a member of less than nothing")
            last = member.offset
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
                self._enter_label(opened, member, suffix)
        if size < opened.offset + tarfile.BLOCKSIZE:  # every whole one ends with zeros
            raise tarfile.ReadError("no mark of its end")

    def _enter_label(self, opened: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> None:
        lower = member.name.lower()
        ending = next(
            (label for label in _LONGEST_FIRST if lower.endswith(f".{label}")), suffix[1:]
        )
        stem = member.name[: -len(ending) - 1]
        if ending in LATER_LABELS:
            self.later.append((member, stem, ending))
        else:
            self._keep_word(ending, stem, self._content(opened, member, LONGEST_LABEL))

    def read_later_labels(self, opened: tarfile.TarFile) -> None:
        """Read labels in JSON and plain text, where no other member has labels."""
        if self.words:
            return
        for member, stem, ending in self.later:
            longest = LONGEST_JSON if ending == "json" else LONGEST_LABEL
            if member.size > longest:  # a caption, or other data
                continue
            content = self._content(opened, member, longest)
            if ending == "json" and content is not None:
                content = _json_label(content)
                if content is None:
                    continue
            self._keep_word(ending, stem, content)

    def _content(
        self, opened: tarfile.TarFile, member: tarfile.TarInfo, longest: int
    ) -> bytes | None:
        stream = opened.extractfile(member) if member.size <= longest else None
        return None if stream is None else stream.read(longest)

    def _keep_word(self, ending: str, stem: str, content: bytes | None) -> None:
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
    """Return the label in the JSON of a sample; None where it has none."""
    try:
        about = json.loads(content)
    except (ValueError, RecursionError):
        return None
    keys = [key for key in JSON_KEYS if key in about] if isinstance(about, dict) else []
    if not keys or not isinstance(about[keys[0]], str | int):
        return None
    return str(about[keys[0]]).encode()
