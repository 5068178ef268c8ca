"""Images of an audit: a folder, a list of files, tar archives, or a Hugging Face data set."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from ..errors import SemattnError, plain
from ..images import display_name
from ..utils.remote_path import Location, LocationLike, RemotePath, to_path
from .archive_index import scan_archives
from .arrow_rows import (
    PREFIX,
    DatasetRows,
    LabelColumn,
    is_saved_dataset,
    open_named_dataset,
    open_saved_dataset,
)
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
from .listing import find_class_folders, list_images, path_in
from .samples import ArchiveSamples, pair_samples

RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")  # of archives: shard-{000..063}.tar
MOST_ARCHIVES = 1_000_000  # in a range
NO_COLUMN = "no column of the data set gives classes"
NO_LABELS = "no members of the archives, such as .cls, give classes"
SHORT = 200  # characters of a name that an error shows


@dataclass(frozen=True)
class Source:
    """Images of an audit, in a fixed order.

    Parameters
    ----------
    data : images and labels
    names : name of each image in the tables: its path relative to the source
    """

    data: LabelledImages
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)


def open_source(
    location: LocationLike, names: Sequence[str] | None, outputs: int,
    index_dir: Path | None = None,
) -> Source:  # fmt: skip
    """List the images of a source without reading them.

    Parameters
    ----------
    location : a folder of pictures, or with one folder per class; a folder of tar archives, one
        archive, or ``shard-{000..063}.tar`` (WebDataset, classes from members ``.cls``), with
        ``#input.png`` for samples with several pictures; or a text file with one path per line,
        relative to the file, and after a tab, comma or space the class, by name or number. Each may
        be local, or the address of a file system of fsspec (``s3://bucket/photos``,
        ``hf://datasets/owner/name/photos``). Or a data set of the Hugging Face library: a folder
        that ``save_to_disk`` wrote, or ``hf-dataset:NAME``, ``hf-dataset:NAME:SPLIT`` or
        ``hf-dataset:NAME:CONFIGURATION:SPLIT``; with ``#COLUMN`` for several columns of pictures
    names : class names of the model, () if it has none; None for the classes of the source itself
    outputs : number of outputs of the model
    index_dir : folder for the index of archives, so that each is listed once for all processes and
        runs; None lists the archives each time

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
    source, notes = _list_images(_as_text(location), names, outputs, index_dir)
    if notes:
        warnings.warn(plain(f"source: {'; '.join(notes)}"), stacklevel=2)
    return source


def read_dataset(dataset: Any, names: Sequence[str] | None, outputs: int) -> LabelledImages:
    """Read a data set as `semattn.data.labelled.read_labelled` does, and every other source.

    Parameters
    ----------
    dataset : a source of `open_source`, or an object that `read_labelled` accepts
    names, outputs : as in `open_source`; for objects, None stands for no names
    """
    if isinstance(dataset, (str, os.PathLike, RemotePath)):
        text = _as_text(dataset)
        if text.startswith(PREFIX) or RANGE.search(text) or _exists(_split_extension(text)[0]):
            return open_source(dataset, names, outputs).data
    return read_labelled(dataset, names or (), outputs)


def _as_text(location: LocationLike) -> str:
    return location.url if isinstance(location, RemotePath) else os.fspath(location)


def _list_images(
    text: str, names: Sequence[str] | None, outputs: int, index_dir: Path | None
) -> tuple[Source, list[str]]:
    """Return the images of a source, and notes on what was assumed."""
    if text.startswith(PREFIX):
        name, _, column = text.removeprefix(PREFIX).partition("#")
        return _dataset(*open_named_dataset(name, column), names, outputs)
    text, extension = _split_extension(text)
    if RANGE.search(text) or text.endswith(".tar"):
        return _archives(_expand_ranges(text), names, outputs, extension, index_dir)
    path = to_path(text)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
        archives = sorted(_archives_in(path)) if is_folder else []
    except OSError as error:  # name too long, folder not readable, no access to a store
        raise SemattnError(
            "source: expected a folder, a list of files or a tar archive, got "
            f"{text[:SHORT]} ({error.strerror or error}) — check its name and permissions"
        ) from error
    if isinstance(path, Path) and is_saved_dataset(path):
        return _dataset(*open_saved_dataset(path, extension), names, outputs)
    if archives:
        return _archives(archives, names, outputs, extension, index_dir)
    if is_folder:
        return _folder(path, names, outputs), []
    if not is_file:
        raise SemattnError(
            "source: expected a folder, a list of files or a tar archive, got "
            f"{path}, which does not exist"
        )
    return _list(path, names, outputs)


def has_archives(location: LocationLike) -> bool:
    """Return whether a source consists of tar archives."""
    text = _split_extension(_as_text(location))[0]
    if text.startswith(PREFIX):
        return False
    if RANGE.search(text) or text.endswith(".tar"):
        return True
    path = to_path(text)
    try:
        return path.is_dir() and bool(_archives_in(path))
    except OSError:
        return False


def _archives_in(folder: Location) -> list[Location]:
    return [
        file for file in folder.iterdir()
        if file.suffix == ".tar" and file.is_file() and not file.name.startswith(".")
    ]  # fmt: skip


def _exists(text: str) -> bool:
    try:
        return to_path(text).exists()
    except OSError:  # name too long, folder not readable
        return False


def _split_extension(text: str) -> tuple[str, str]:
    """Return the archives and the extension of ``ARCHIVES#EXTENSION``."""
    archives, _, extension = text.rpartition("#")
    try:
        is_choice = bool(archives) and not to_path(text).exists() and (
            archives.endswith(".tar") or bool(RANGE.search(archives)) or to_path(archives).is_dir()
        )  # fmt: skip
    except OSError:
        is_choice = False
    return (archives, extension) if is_choice else (text, "")


def _folder(folder: Location, names: Sequence[str] | None, outputs: int) -> Source:
    if names is None:
        names = find_class_folders(list_images(folder), folder)[0]
        outputs = len(names)
    data = read_labelled(folder, names, outputs)
    return Source(data, tuple(display_name(path_in(path, folder)) for path in data.sources))


def _dataset(
    rows: DatasetRows, column: LabelColumn, names: Sequence[str] | None, outputs: int
) -> tuple[Source, list[str]]:
    """Return the rows of a data set with the labels that are classes of the model."""
    present = {word for word in column.words if word}
    if names is None:
        names, outputs = _own_classes(column.classes or present)
    numbers, reasons = match_class_words(column.classes or present, names, outputs)
    notes = []
    if column.classes and not names and len(column.classes) == outputs:  # numbered by the data set
        numbers, reasons = {word: number for number, word in enumerate(column.classes)}, {}
    unknown = sorted(present & reasons.keys())
    if unknown:
        count = sum(word in reasons for word in column.words)
        reason = reasons[unknown[0]].partition(" — ")[0]
        notes.append(
            f"{count} of {len(rows)} labels of the column {column.column} give no class of the "
            f"model ({reason}): those images have no label"
        )
    labels = tuple(numbers.get(word) for word in column.words)
    note = "" if any(label is not None for label in labels) else PREDICTED.format(NO_COLUMN)
    data = LabelledImages(rows, labels, tuple(names), note)
    return Source(data, DisplayNames(rows)), notes


def _own_classes(words: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Return the class names of a source and their number; no names if classes are numbers."""
    classes = sorted(set(words) - {""})
    if all(map(NUMBER.fullmatch, classes)):
        return (), 1 + max((int(word.lstrip("#")) for word in classes), default=-1)
    return tuple(classes), len(classes)


class DisplayNames(Sequence[str]):
    """Display names of image inputs, made when they are needed."""

    def __init__(self, sources: Sequence[Any]) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(map(display_name, self.sources[index]))
        return display_name(self.sources[index])

    def __iter__(self) -> Iterator[str]:
        return map(display_name, self.sources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


def _list(file: Location, names: Sequence[str] | None, outputs: int) -> tuple[Source, list[str]]:
    listing = read_list(file)
    if names is None:
        names, outputs = _own_classes(listing.words)
    numbers = _numbers(listing, names, outputs, file)
    labels = tuple(numbers[word] if word else None for word in listing.words)
    note = "" if any(listing.words) else PREDICTED.format("the list has no classes")
    data = LabelledImages(list(listing.paths), labels, tuple(names), note)
    notes = list(listing.notes)
    if any(listing.words) and not names and not all(map(NUMBER.fullmatch, numbers)):
        notes.append(IN_ORDER)
    return Source(data, tuple(map(plain, listing.names))), notes


def _numbers(
    listing: ImageList, names: Sequence[str], outputs: int, file: Location
) -> dict[str, int]:
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
    files: Sequence[Location],
    names: Sequence[str] | None,
    outputs: int,
    extension: str,
    index_dir: Path | None,
) -> tuple[Source, list[str]]:
    scans, broken = [], []
    for file, contents in zip(files, scan_archives(files, index_dir), strict=True):
        if isinstance(contents, SemattnError):
            broken.append((plain(file.name), str(contents)))
            continue
        scans.append(contents)
        if contents.broken:
            broken.append((plain(file.name), contents.broken))
    if not any(contents.pictures for contents in scans):
        reason = f" ({broken[0][1]})" if broken else ""
        raise SemattnError(
            f"source: expected pictures in the archives, got none in {len(files)}{reason}"
        )
    samples = pair_samples(scans, extension)
    if names is None:
        names, outputs = _own_classes(samples.words)
    labels, notes = _member_labels(samples, names, outputs)
    has_labels = any(label is not None for label in labels)
    note = "" if has_labels else PREDICTED.format(NO_LABELS)
    damage = "; ".join(f"{name}: {reason}" for name, reason in broken)
    data = LabelledImages(
        samples.pictures, labels, tuple(names), note,
        damage and f"images after the damage are missing: {damage}", tuple(broken),
    )  # fmt: skip
    return Source(data, DisplayNames(samples.pictures)), [*samples.notes, *notes]


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


def _expand_ranges(text: str) -> list[Location]:
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
    return [to_path(number) for number in expanded]
