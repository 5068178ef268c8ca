"""Samples of archives: which pictures belong together, and the label of each.

The names of the members decide; nothing is read here but `scan`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from ..errors import ImageError
from ..images.archives import LABELS, LATER_LABELS, Scan, TarMember, scan

Cut: TypeAlias = Callable[[str], tuple[str, str]]  # the name of a member -> key, extension
EACH_PICTURE = "*"  # the extension that takes every picture for itself
MANY = 8  # extensions, which are parts of names
SHOWN = 6  # extensions that an error lists
NO_PHOTOGRAPHS = {
    "seg", "segmentation", "semantic", "instance", "panoptic", "mask", "masks", "matte", "alpha",
    "trimap", "gt", "annotation", "label", "labels", "depth", "normal", "normals", "edge", "edges",
    "thumb", "thumbnail", "preview",
}  # fmt: skip


@dataclass(frozen=True)
class Samples:
    """One picture a sample of some archives, and its label.

    Parameters
    ----------
    pictures : in the order of the archives
    words : the labels, names or numbers; "" for none
    ending : of the members with labels
    notes : what was assumed
    """

    pictures: tuple[TarMember, ...]
    words: tuple[str, ...]
    ending: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Archive:
    """Pictures of one archive, the label of each (a class number or name, or None), and notes."""

    pictures: tuple[TarMember, ...]
    labels: tuple[int | str | None, ...]
    broken: str = ""
    notes: tuple[str, ...] = ()


def members(archive: str | os.PathLike[str], extension: str = "") -> Archive:
    """Return the pictures of one tar file and their labels: `scan`, then `pair`."""
    contents = scan(archive)
    samples = pair([contents], extension)
    labels = tuple(int(word) if re.fullmatch("[0-9]{1,18}", word) else word or None
                   for word in samples.words)  # fmt: skip
    return Archive(samples.pictures, labels, contents.broken, samples.notes)


def pair(scans: Sequence[Scan], extension: str = "") -> Samples:
    """Choose one picture a sample, and find its label.

    A sample is all members of one name up to its first dot, as in WebDataset; or up to its last
    one, where names have dots.

    Parameters
    ----------
    scans : the archives
    extension : of the pictures to take, such as ``input.png``; "*" takes each for itself, "" takes
        the only one of a sample

    Raises
    ------
    ImageError
        For samples of several pictures, where `extension` does not choose.
    """
    pictures = [picture for contents in scans for picture in contents.pictures]
    notes: list[str] = []
    hidden, unreadable = (
        sum(contents.hidden for contents in scans),
        sum(contents.unreadable for contents in scans),
    )
    if hidden:
        notes.append(f"{hidden} hidden members of the archives (such as ._a.jpg) are left out")
    if unreadable:
        notes.append(f"{unreadable} members of the archives hold no label that can be read")
    ending = next((label for label in (*LABELS, *LATER_LABELS)
                   if any(label in contents.words for contents in scans)), "cls")  # fmt: skip
    words = {
        contents.pictures[0].archive: contents.words.get(ending, {})
        for contents in scans
        if contents.pictures
    }
    cut = _first_dot
    if extension == EACH_PICTURE:
        cut = _last_dot
    elif extension:
        chosen = [
            picture
            for picture in pictures
            if _first_dot(picture.name)[1] == extension.lower().lstrip(".")
        ]
        if not chosen:
            raise ImageError(
                f"archive: expected pictures with the extension {extension!r}, got "
                f"{_listing(pictures)} — choose one of these"
            )
        pictures = chosen
    elif not _is_single(pictures, _first_dot):
        if _names_have_dots(pictures, words):
            cut = _last_dot
            notes.append("names in the archives have dots: a sample's name ends at its last dot")
        else:
            pictures = _photographs(pictures, notes)
    labels = [{_key(stem, cut): word for stem, word in words[archive].items()}
              for archive in words]  # fmt: skip
    by_archive = dict(zip(words, labels, strict=True))
    texts = tuple(by_archive[picture.archive].get(cut(picture.name)[0], "") for picture in pictures)
    if ending != "cls" and any(texts):
        notes.append(f"classes are read from the members .{ending} of the archives")
    return Samples(tuple(pictures), texts, ending, tuple(notes))


def _key(stem: str, cut: Cut) -> str:
    """Return the key of the sample of a label, whose name is given without the label's ending."""
    return stem if cut is _last_dot else _first_dot(stem)[0]


def _first_dot(name: str) -> tuple[str, str]:
    """Return the key and the extension, in small letters, cut at the first dot of the base name."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _last_dot(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.rpartition(".")
    return folder + slash + stem, extension.lower()


def _is_single(pictures: Sequence[TarMember], cut: Cut) -> bool:
    """Return whether each sample has one picture."""
    return len({(picture.archive, cut(picture.name)[0]) for picture in pictures}) == len(pictures)


def _names_have_dots(
    pictures: Sequence[TarMember], words: Mapping[Path, Mapping[str, str]]
) -> bool:
    """Return whether dots are part of the names, rather than several pictures of a sample."""
    if not _is_single(pictures, _last_dot):
        return False
    if all(_last_dot(picture.name)[0] in words[picture.archive] for picture in pictures):
        return True  # each has a label of its own
    if any(words.values()):
        return False
    samples = {(picture.archive, _first_dot(picture.name)[0]) for picture in pictures}
    extensions = {_first_dot(picture.name)[1] for picture in pictures}
    numbered = all(re.search("[0-9]", extension.rpartition(".")[0]) for extension in extensions)
    return len(extensions) > len(samples) and (numbered or len(extensions) >= MANY)


def _photographs(pictures: list[TarMember], notes: list[str]) -> list[TarMember]:
    """Return the pictures of samples that are no masks; each sample must have one."""
    chosen, other = [], set()
    for picture in pictures:
        extension = _first_dot(picture.name)[1]
        if NO_PHOTOGRAPHS & set(re.split(r"[._-]", extension.rpartition(".")[0])):
            other.add(extension)
        else:
            chosen.append(picture)
    samples = {(picture.archive, _first_dot(picture.name)[0]) for picture in pictures}
    if len(chosen) != len(samples) or not _is_single(chosen, _first_dot):
        choices = _listing(pictures)
        first = choices.partition(",")[0]
        raise ImageError(
            f"archive: expected one picture a sample, got several, with the extensions {choices} "
            f"— choose with #, such as {pictures[0].archive.name}#{first}, or take each picture "
            f"for itself: {pictures[0].archive.name}#{EACH_PICTURE}"
        )
    left = len(pictures) - len(chosen)
    notes.append(f"{left} pictures called {', '.join(sorted(other))} are taken for masks, left out")
    return chosen


def _listing(pictures: Sequence[TarMember]) -> str:
    counts = Counter(_first_dot(picture.name)[1] for picture in pictures)
    some = ", ".join(name for name, _ in counts.most_common(SHOWN))
    return some + ", …" * (len(counts) > SHOWN)
