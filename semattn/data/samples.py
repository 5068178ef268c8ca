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
from ..images.archive_members import ArchiveMembers, ArchivesMembers, TarMember
from ..images.archives import LABELS, LATER_LABELS, Scan, scan
from ..utils.remote_path import LocationLike

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

    pictures: Sequence[TarMember]
    words: tuple[str, ...]
    ending: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LabelledArchive:
    """Pictures of one archive with their labels (class number, class name or None), and notes."""

    pictures: Sequence[TarMember]
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
    parts = [contents.pictures for contents in scans]
    split_name = _first_dot
    if extension == EACH_PICTURE:
        split_name = _last_dot
    elif extension:
        extension_name = extension.lower().lstrip(".")
        parts = [
            _select(part, lambda name: _first_dot(name)[1] == extension_name) for part in parts
        ]
        if not any(parts):
            pictures = ArchivesMembers([contents.pictures for contents in scans])
            raise ImageError(
                f"archive: expected pictures with the extension {extension!r}, got "
                f"{_list_extensions(pictures)} — choose one of these"
            )
    elif not all(_is_single(part, _first_dot) for part in parts):
        if _names_have_dots(scans, ending):
            split_name = _last_dot
            notes.append("names in the archives have dots: sample names end at the last dot")
        else:
            parts = _photographs(parts, notes)
    texts: list[str] = []
    shared: dict[str, str] = {}  # one text for each class, not for each picture
    for contents, part in zip(scans, parts, strict=True):
        words = {
            _sample_key(stem, split_name): shared.setdefault(word, word)
            for stem, word in _words(contents, ending).items()
        }
        texts += [words.get(split_name(picture.name)[0], "") for picture in part]
    if ending != "cls" and any(texts):
        notes.append(f"classes are read from the members .{ending} of the archives")
    return ArchiveSamples(ArchivesMembers(parts), tuple(texts), ending, tuple(notes))


def _words(contents: Scan, ending: str) -> dict[str, str]:
    """Return the labels of an archive with one extension, by name."""
    return contents.words[ending].unpacked() if ending in contents.words else {}


def _select(
    pictures: Sequence[TarMember], is_selected: Callable[[str], bool]
) -> Sequence[TarMember]:
    """Return the pictures of an archive whose names are selected."""
    selected = [picture for picture in pictures if is_selected(picture.name)]
    if len(selected) == len(pictures):
        return pictures
    return ArchiveMembers.of(selected[0].archive, selected) if selected else ()


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
    """Return whether each sample of an archive has exactly one picture."""
    return len({split_name(picture.name)[0] for picture in pictures}) == len(pictures)


def _names_have_dots(scans: Sequence[Scan], ending: str) -> bool:
    """Return whether dots are part of the names, instead of several pictures in a sample."""
    if not all(_is_single(contents.pictures, _last_dot) for contents in scans):
        return False
    if all(_all_labelled(contents.pictures, _words(contents, ending)) for contents in scans):
        return True
    if any(ending in contents.words for contents in scans if contents.pictures):
        return False
    count, extensions = 0, set[str]()
    for contents in scans:
        count += len({_first_dot(picture.name)[0] for picture in contents.pictures})
        extensions |= {_first_dot(picture.name)[1] for picture in contents.pictures}
    numbered = all(re.search("[0-9]", extension.rpartition(".")[0]) for extension in extensions)
    return len(extensions) > count and (numbered or len(extensions) >= MANY)


def _all_labelled(pictures: Sequence[TarMember], words: Mapping[str, str]) -> bool:
    return all(_last_dot(picture.name)[0] in words for picture in pictures)


def _photographs(
    parts: Sequence[Sequence[TarMember]], notes: list[str]
) -> list[Sequence[TarMember]]:
    """Return the pictures that are not masks; each sample must have exactly one."""
    mask_extensions: set[str] = set()

    def is_photograph(name: str) -> bool:
        extension = _first_dot(name)[1]
        is_mask = bool(NO_PHOTOGRAPHS & set(re.split(r"[._-]", extension.rpartition(".")[0])))
        if is_mask:
            mask_extensions.add(extension)
        return not is_mask

    selected = [_select(part, is_photograph) for part in parts]
    for part, photographs in zip(parts, selected, strict=True):
        samples = {_first_dot(picture.name)[0] for picture in part}
        if len(photographs) != len(samples) or not _is_single(photographs, _first_dot):
            pictures = ArchivesMembers(parts)
            choices = _list_extensions(pictures)
            first, archive = choices.partition(",")[0], pictures[0].archive.name
            raise ImageError(
                f"archive: expected one picture in a sample, got several, with the extensions "
                f"{choices} — choose with #, such as {archive}#{first}, or make each picture a "
                f"sample: {archive}#{EACH_PICTURE}"
            )
    left_out = sum(map(len, parts)) - sum(map(len, selected))
    extensions = ", ".join(sorted(mask_extensions))
    notes.append(f"{left_out} pictures called {extensions} are left out: they seem to be masks")
    return selected


def _list_extensions(pictures: Sequence[TarMember]) -> str:
    counts = Counter(_first_dot(picture.name)[1] for picture in pictures)
    listed = ", ".join(name for name, _ in counts.most_common(SHOWN))
    return listed + ", …" * (len(counts) > SHOWN)
