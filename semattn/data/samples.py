"""Samples of WebDataset archives: one picture and one label for each sample.

Samples are determined from the names of the members.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import ImageError
from ..images.archives import LABELS, LATER_LABELS, Scan, TarMember, scan
from ..utils.remote_path import Location, LocationLike

SplitName: TypeAlias = Callable[[str], tuple[str, str]]  # the name of a member -> key, extension
EACH_PICTURE = "*"  # extension that makes each picture a sample
MANY = 8  # with so many different extensions, they are parts of names
SHOWN = 6  # number of extensions that an error lists
NO_PHOTOGRAPHS = {
    "seg", "segmentation", "semantic", "instance", "panoptic", "mask", "masks", "matte", "alpha",
    "trimap", "gt", "annotation", "label", "labels", "depth", "normal", "normals", "edge", "edges",
    "thumb", "thumbnail", "preview",
}  # fmt: skip


@dataclass(frozen=True)
class ArchiveSamples:
    """Pictures and labels of the samples in some archives.

    Parameters
    ----------
    pictures : one picture for each sample, in the order of the archives
    words : labels, as names or numbers; "" for none
    ending : extension of the members with labels
    notes : notes on how pictures and labels were selected
    """

    pictures: tuple[TarMember, ...]
    words: tuple[str, ...]
    ending: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelledArchive:
    """Pictures of one archive with their labels (class number, class name or None), and notes."""

    pictures: tuple[TarMember, ...]
    labels: tuple[int | str | None, ...]
    broken: str = ""
    notes: tuple[str, ...] = ()


def read_archive(archive: LocationLike, extension: str = "") -> LabelledArchive:
    """Return the pictures and labels of one tar file: `scan`, then `pair_samples`."""
    contents = scan(archive)
    samples = pair_samples([contents], extension)
    labels = tuple(int(word) if re.fullmatch("[0-9]{1,18}", word) else word or None
                   for word in samples.words)  # fmt: skip
    return LabelledArchive(samples.pictures, labels, contents.broken, samples.notes)


def pair_samples(scans: Sequence[Scan], extension: str = "") -> ArchiveSamples:
    """Select one picture for each sample, with its label.

    A sample consists of all members whose names are equal up to the first dot, as in WebDataset; or
    up to the last dot, if names contain dots.

    Parameters
    ----------
    scans : the archives
    extension : extension of the pictures to select, such as ``input.png``; "*" makes each picture a
        sample, "" requires one picture in each sample

    Raises
    ------
    ImageError
        For samples with several pictures if `extension` does not select one.
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
        notes.append(f"{unreadable} members of the archives hold no readable label")
    ending = next((label for label in (*LABELS, *LATER_LABELS)
                   if any(label in contents.words for contents in scans)), "cls")  # fmt: skip
    words = {
        contents.pictures[0].archive: contents.words.get(ending, {})
        for contents in scans
        if contents.pictures
    }
    split_name = _first_dot
    if extension == EACH_PICTURE:
        split_name = _last_dot
    elif extension:
        selected = [
            picture
            for picture in pictures
            if _first_dot(picture.name)[1] == extension.lower().lstrip(".")
        ]
        if not selected:
            raise ImageError(
                f"archive: expected pictures with the extension {extension!r}, got "
                f"{_list_extensions(pictures)} — choose one of these"
            )
        pictures = selected
    elif not _is_single(pictures, _first_dot):
        if _names_have_dots(pictures, words):
            split_name = _last_dot
            notes.append("names in the archives have dots: sample names end at the last dot")
        else:
            pictures = _photographs(pictures, notes)
    labels = [{_sample_key(stem, split_name): word for stem, word in words[archive].items()}
              for archive in words]  # fmt: skip
    by_archive = dict(zip(words, labels, strict=True))
    texts = tuple(
        by_archive[picture.archive].get(split_name(picture.name)[0], "") for picture in pictures
    )
    if ending != "cls" and any(texts):
        notes.append(f"classes are read from the members .{ending} of the archives")
    return ArchiveSamples(tuple(pictures), texts, ending, tuple(notes))


def _sample_key(stem: str, split_name: SplitName) -> str:
    """Return the sample key of a label, from its name without the label's extension."""
    return stem if split_name is _last_dot else _first_dot(stem)[0]


def _first_dot(name: str) -> tuple[str, str]:
    """Split a name at the first dot of its base name into key and extension (lower case)."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return folder + slash + stem, extension.lower()


def _last_dot(name: str) -> tuple[str, str]:
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.rpartition(".")
    return folder + slash + stem, extension.lower()


def _is_single(pictures: Sequence[TarMember], split_name: SplitName) -> bool:
    """Return whether each sample has exactly one picture."""
    return len({(picture.archive, split_name(picture.name)[0]) for picture in pictures}) == len(
        pictures
    )


def _names_have_dots(
    pictures: Sequence[TarMember], words: Mapping[Location, Mapping[str, str]]
) -> bool:
    """Return whether dots are part of the names, instead of several pictures in a sample."""
    if not _is_single(pictures, _last_dot):
        return False
    if all(_last_dot(picture.name)[0] in words[picture.archive] for picture in pictures):
        return True  # each picture has a label
    if any(words.values()):
        return False
    samples = {(picture.archive, _first_dot(picture.name)[0]) for picture in pictures}
    extensions = {_first_dot(picture.name)[1] for picture in pictures}
    numbered = all(re.search("[0-9]", extension.rpartition(".")[0]) for extension in extensions)
    return len(extensions) > len(samples) and (numbered or len(extensions) >= MANY)


def _photographs(pictures: list[TarMember], notes: list[str]) -> list[TarMember]:
    """Return the pictures that are not masks; each sample must have exactly one."""
    photographs, mask_extensions = [], set()
    for picture in pictures:
        extension = _first_dot(picture.name)[1]
        if NO_PHOTOGRAPHS & set(re.split(r"[._-]", extension.rpartition(".")[0])):
            mask_extensions.add(extension)
        else:
            photographs.append(picture)
    samples = {(picture.archive, _first_dot(picture.name)[0]) for picture in pictures}
    if len(photographs) != len(samples) or not _is_single(photographs, _first_dot):
        choices = _list_extensions(pictures)
        first = choices.partition(",")[0]
        raise ImageError(
            f"archive: expected one picture in a sample, got several, with the extensions "
            f"{choices} — choose with #, such as {pictures[0].archive.name}#{first}, or make each "
            f"picture a sample: {pictures[0].archive.name}#{EACH_PICTURE}"
        )
    left_out = len(pictures) - len(photographs)
    extensions = ", ".join(sorted(mask_extensions))
    notes.append(f"{left_out} pictures called {extensions} are left out: they seem to be masks")
    return photographs


def _list_extensions(pictures: Sequence[TarMember]) -> str:
    counts = Counter(_first_dot(picture.name)[1] for picture in pictures)
    listed = ", ".join(name for name, _ in counts.most_common(SHOWN))
    return listed + ", …" * (len(counts) > SHOWN)
