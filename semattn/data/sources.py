"""Images of an audit: a folder, a list of files, or tar archives."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import SemattnError, plain
from ..images import display_name
from ..images.archives import scan
from .image_list import ImageList, read_list
from .labelled import (
    IN_ORDER,
    NUMBER,
    PREDICTED,
    LabelledImages,
    counts_from_one,
    match_class_words,
    read_labelled,
)
from .samples import ArchiveSamples, pair_samples

RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")  # of archives: shard-{000..063}.tar
MOST_ARCHIVES = 1_000_000  # in a range
NO_LABELS = "no members of the archives, such as .cls, give classes"
SHORT = 200  # characters of a name that an error shows


@dataclass(frozen=True)
class Source:
    """Images of an audit, in a fixed order.

    Parameters
    ----------
    data : images and labels
    names : name of each image in the tables: its path relative to the source
    broken : (name, reason) of the parts that could not be listed
    """

    data: LabelledImages
    names: tuple[str, ...]
    broken: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def open_source(location: str | os.PathLike[str], names: Sequence[str], outputs: int) -> Source:
    """List the images of a source without reading them.

    Parameters
    ----------
    location : a folder of pictures, or with one folder per class; a folder of tar archives, one
        archive, or ``shard-{000..063}.tar`` (WebDataset, classes from members ``.cls``), with
        ``#input.png`` for samples with several pictures; or a text file with one path per line,
        relative to the file, and after a tab, comma or space the class, by name or number
    names : class names of the model, () if it has none
    outputs : number of outputs of the model

    Raises
    ------
    SemattnError
        For any other source, a source without pictures, and an ambiguous source.

    Warns
    -----
    UserWarning
        If the images or classes could be read in more than one way: which way was used.

    Examples
    --------
    >>> open_source("nowhere", (), 2)
    Traceback (most recent call last):
    semattn.errors.SemattnError: source: expected a folder, a list of files or a tar archive, got \
nowhere, which does not exist
    """
    source, notes = _list_images(os.fspath(location), names, outputs)
    if notes:
        warnings.warn(plain(f"source: {'; '.join(notes)}"), stacklevel=2)
    return source


def _list_images(text: str, names: Sequence[str], outputs: int) -> tuple[Source, list[str]]:
    """Return the images of a source, and notes on what was assumed."""
    text, extension = _split_extension(text)
    if RANGE.search(text) or text.endswith(".tar"):
        return _archives(_expand_ranges(text), names, outputs, extension)
    path = Path(text)
    try:
        path.is_dir()
    except OSError as error:  # name too long, folder not readable
        raise SemattnError(
            "source: expected a folder, a list of files or a tar archive, got "
            f"{text[:SHORT]} ({error.strerror}) — check its name and permissions"
        ) from error
    if path.is_dir():
        archives = sorted(
            file for file in path.iterdir()
            if file.suffix == ".tar" and file.is_file() and not file.name.startswith(".")
        )  # fmt: skip
        if archives:
            return _archives(archives, names, outputs, extension)
        return _folder(path, names, outputs), []
    if not path.is_file():
        raise SemattnError(
            "source: expected a folder, a list of files or a tar archive, got "
            f"{path}, which does not exist"
        )
    return _list(path, names, outputs)


def _split_extension(text: str) -> tuple[str, str]:
    """Return the archives and the extension of ``ARCHIVES#EXTENSION``."""
    archives, _, extension = text.rpartition("#")
    try:
        is_choice = bool(archives) and not Path(text).exists() and (
            archives.endswith(".tar") or bool(RANGE.search(archives)) or Path(archives).is_dir()
        )  # fmt: skip
    except OSError:
        is_choice = False
    return (archives, extension) if is_choice else (text, "")


def _folder(folder: Path, names: Sequence[str], outputs: int) -> Source:
    data = read_labelled(folder, names, outputs)
    return Source(
        data, tuple(display_name(Path(path).relative_to(folder)) for path in data.sources)
    )


def _list(file: Path, names: Sequence[str], outputs: int) -> tuple[Source, list[str]]:
    listing = read_list(file)
    numbers = _numbers(listing, names, outputs, file)
    labels = tuple(numbers[word] if word else None for word in listing.words)
    note = "" if any(listing.words) else PREDICTED.format("the list has no classes")
    data = LabelledImages(list(listing.paths), labels, tuple(names), note)
    notes = list(listing.notes)
    if any(listing.words) and not names and not all(map(NUMBER.fullmatch, numbers)):
        notes.append(IN_ORDER)
    return Source(data, tuple(map(plain, listing.names))), notes


def _numbers(listing: ImageList, names: Sequence[str], outputs: int, file: Path) -> dict[str, int]:
    """Return the class number of each name or number in a list."""
    numbers, reasons = match_class_words(set(listing.words) - {""}, names, outputs)
    if not reasons:
        return numbers
    place, word = next((index, word) for index, word in enumerate(listing.words) if word in reasons)
    advice = "write the number of a class, or leave it out"
    if counts_from_one(listing.words, outputs):
        advice = f"the list counts classes from 1 to {outputs}, the model from 0: subtract 1"
    reason = reasons[word] if " — " in reasons[word] else f"{reasons[word]} — {advice}"
    raise SemattnError(f"source: line {listing.lines[place]} of {file}: {reason}")


def _archives(
    files: Sequence[Path], names: Sequence[str], outputs: int, extension: str
) -> tuple[Source, list[str]]:
    scans, broken = [], []
    for file in files:
        try:
            scans.append(scan(file))
        except SemattnError as error:
            broken.append((plain(file.name), str(error)))
            continue
        if scans[-1].broken:
            broken.append((plain(file.name), scans[-1].broken))
    if not any(contents.pictures for contents in scans):
        reason = f" ({broken[0][1]})" if broken else ""
        raise SemattnError(
            f"source: expected pictures in the archives, got none in {len(files)}{reason}"
        )
    samples = pair_samples(scans, extension)
    labels, notes = _member_labels(samples, names, outputs)
    has_labels = any(label is not None for label in labels)
    note = "" if has_labels else PREDICTED.format(NO_LABELS)
    data = LabelledImages(list(samples.pictures), labels, tuple(names), note)
    notes = [*samples.notes, *notes]
    return Source(data, tuple(map(display_name, samples.pictures)), tuple(broken)), notes


def _member_labels(
    samples: ArchiveSamples, names: Sequence[str], outputs: int
) -> tuple[tuple[int | None, ...], list[str]]:
    """Return the class number of each picture, and notes on labels that are not classes."""
    words = [word for word in samples.words if word]
    numbers, reasons = match_class_words(words, names, outputs)
    if not reasons:
        in_order = numbers and not names and not any(map(NUMBER.fullmatch, numbers))
        return tuple(map(numbers.get, samples.words)), [IN_ORDER] if in_order else []
    word = next(word for word in words if word in reasons)
    count = sum(word in reasons for word in words)
    summary = f"{count} of {len(words)} members .{samples.ending} give no class of the model"
    reason = f"{summary} ({reasons[word].partition(' — ')[0]})"
    if samples.ending == "txt":
        return (None,) * len(samples.words), [f"{reason}: they are taken for captions"]
    if any(NUMBER.fullmatch(word) for word in reasons):
        if counts_from_one(words, outputs):
            reason += f", since they count from 1 to {outputs} and the model from 0"
        return (None,) * len(samples.words), [f"{reason}: no label is used"]
    return tuple(map(numbers.get, samples.words)), [f"{reason}: those images have no label"]


def _expand_ranges(text: str) -> list[Path]:
    """Return the paths of a range: ``a-{00..02}.tar`` gives three, with leading zeros."""
    count = 1
    for first, last in RANGE.findall(text):
        count *= max(0, int(last) - int(first) + 1)
        if not 0 < count <= MOST_ARCHIVES:
            raise SemattnError(
                f"source: expected a range such as {{000..063}}, got {{{first}..{last}}} — the "
                f"first comes first, and all together are at most {MOST_ARCHIVES:,}"
            )
    parts = RANGE.split(text)  # between the ranges, their first and last numbers
    expanded = parts[:1]
    for first, last, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        numbers = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        expanded = [f"{name}{number}{rest}" for name in expanded for number in numbers]
    return [Path(number) for number in expanded]
