"""What an audit goes through: a folder, a list of files, or tar archives, image by image."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..class_names import matches, resolve_class
from ..errors import SemattnError, TargetError, plain
from ..images import TarMember, called, members
from ..spurious.data import PREDICTED, Labelled, read
from ..spurious.folders import numbers_of

RANGE = re.compile(r"\{([0-9]{1,18})\.\.([0-9]{1,18})\}")  # of archives: shard-{000..063}.tar
NUMBER = re.compile("#?[0-9]{1,9}")  # of a class
MOST_ARCHIVES = 1_000_000  # that a range may stand for
SHORT = 200  # letters of a name that an error shows


@dataclass(frozen=True)
class Source:
    """The images of an audit, always in the same order.

    Parameters
    ----------
    data : the images and their classes
    names : of each image, as it stands in the tables: its path from where the source lies
    broken : what could not even be listed, and why
    """

    data: Labelled
    names: tuple[str, ...]
    broken: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)


def open_source(given: str | os.PathLike[str], names: Sequence[str], outputs: int) -> Source:
    """List the images of a source; none is read.

    Parameters
    ----------
    given : a folder of pictures, or of one folder a class; a folder of tar archives, one of them,
        or ``shard-{000..063}.tar`` (WebDataset, classes from members ``.cls``); or a text file with
        a path a line, from where the file lies, and after a tab the class, by name or number
    names : of the model's classes, () where they have none
    outputs : of the model: how many classes

    Raises
    ------
    SemattnError
        For what is none of these, or holds no picture.

    Examples
    --------
    >>> open_source("nowhere", (), 2)
    Traceback (most recent call last):
    semattn.errors.SemattnError: source: expected a folder, a list of files or a tar archive, got \
nowhere, which does not exist
    """
    text = os.fspath(given)
    if RANGE.search(text) or text.endswith(".tar"):
        return _archives(_expanded(text), names)
    path = Path(given)
    try:
        path.is_dir()
    except OSError as error:  # too long a name, a closed folder
        raise SemattnError(
            "source: expected a folder, a list of files or a tar archive, got "
            f"{text[:SHORT]} ({error.strerror}) — check its name and permissions"
        ) from error
    if path.is_dir():
        archives = sorted(one for one in path.iterdir() if one.suffix == ".tar" and one.is_file())
        return _archives(archives, names) if archives else _folder(path, names, outputs)
    if not path.is_file():
        raise SemattnError(
            "source: expected a folder, a list of files or a tar archive, got "
            f"{path}, which does not exist"
        )
    return _list(path, names, outputs)


def _folder(folder: Path, names: Sequence[str], outputs: int) -> Source:
    data = read(folder, names, outputs)
    return Source(data, tuple(called(Path(one).relative_to(folder)) for one in data.sources))


def _list(file: Path, names: Sequence[str], outputs: int) -> Source:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SemattnError(
            f"source: expected a text file with a path a line, got {file} ({error})"
        ) from error
    rows = [line.partition("\t") for line in lines if line.strip()]
    if not rows:
        raise SemattnError(f"source: expected a path a line, got none in {file} — list photographs")
    words = [word.strip() for _, _, word in rows]
    numbers = _numbers(sorted(set(words) - {""}), names, outputs, file)
    labels = tuple(numbers[one] if one else None for one in words)
    paths = [file.parent / path.strip() for path, _, _ in rows]
    note = PREDICTED.format("the list has no classes") if not any(words) else ""
    return Source(
        Labelled(paths, labels, tuple(names), note), tuple(plain(path) for path, _, _ in rows)
    )


def _numbers(
    words: Sequence[str], names: Sequence[str], outputs: int, file: Path
) -> dict[str, int]:
    """The class number of each name or number in a list."""
    digits = [one for one in words if NUMBER.fullmatch(one)]
    found, missing = numbers_of([one for one in words if one not in digits], names, outputs)
    candidates = [one for one in missing if len(matches(one, names)) > 1]
    try:
        for one in [*digits, *candidates]:
            found[one] = resolve_class(one, names, outputs or None)
    except TargetError as error:
        raise SemattnError(f"source: {file}: {error}") from error
    if missing:
        raise SemattnError(
            f"source: expected classes of the model after the tab, got {missing[0]!r} in {file} — "
            "write its number, or leave it out"
        )
    return found


def _archives(files: Sequence[Path], names: Sequence[str]) -> Source:
    pictures: list[TarMember] = []
    labels: list[int | None] = []
    broken = []
    for one in files:
        try:
            found = members(one)
        except SemattnError as error:
            broken.append((plain(one.name), str(error)))
            continue
        pictures += found.pictures
        labels += found.labels
        if found.broken:
            broken.append((plain(one.name), found.broken))
    if not pictures:
        said = f" ({broken[0][1]})" if broken else ""
        raise SemattnError(
            f"source: expected pictures in the archives, got none in {len(files)}{said}"
        )
    known = any(one is not None for one in labels)
    note = "" if known else PREDICTED.format("the archives have no members .cls")
    data = Labelled(pictures, tuple(labels), tuple(names), note)
    return Source(data, tuple(called(one) for one in pictures), tuple(broken))


def _expanded(text: str) -> list[Path]:
    """``a-{00..02}.tar`` as three paths, zeros kept."""
    count = 1
    for first, last in RANGE.findall(text):
        count *= max(0, int(last) - int(first) + 1)
        if not 0 < count <= MOST_ARCHIVES:
            raise SemattnError(
                f"source: expected a range such as {{000..063}}, got {{{first}..{last}}} — the "
                f"first comes first, and all together are at most {MOST_ARCHIVES:,}"
            )
    parts = RANGE.split(text)  # between the ranges, their first and last numbers
    names = parts[:1]
    for first, last, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        numbers = [f"{one:0{len(first)}}" for one in range(int(first), int(last) + 1)]
        names = [f"{name}{one}{rest}" for name in names for one in numbers]
    return [Path(one) for one in names]
