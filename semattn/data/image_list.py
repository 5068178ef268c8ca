"""Lists of image files. The separator, columns and folder are those for which the files exist."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import SemattnError
from ..utils.remote_path import Location, RemotePath, is_url, to_path
from ..utils.text import read_lines

SAMPLE = 64  # lines from which the form is inferred
SHORT = 200  # characters of a line that an error shows
SEPARATORS = {"tabs": "\t", "": "", "commas": ",", "semicolons": ";", "spaces": " "}
PLAIN = ("tabs", "")  # separators without a note: classes after a tab, and paths only
PATH_COLUMNS = {
    "path", "paths", "file", "files", "filename", "file_name", "filepath", "file_path", "image",
    "images", "image_path", "imagepath", "img", "img_path", "image_name", "image_file", "photo",
}  # fmt: skip
CLASS_COLUMNS = {
    "label", "labels", "class", "classes", "target", "targets", "category", "class_id", "classid",
    "class_name", "classname", "class_index", "label_id", "category_id", "synset", "y",
}  # fmt: skip
_QUOTED = re.compile(r"""(["'])(.*)\1""")
_QUOTED_FIRST = re.compile(r'"([^"]*)"(?:\s+(.*))?')

Row = tuple[str, str]  # path and class, as they are written


@dataclass(frozen=True)
class ImageList:
    """Rows of a list.

    Parameters
    ----------
    paths : paths of the images
    names : paths as written in the list, with slashes
    words : classes as written in the list; "" for none
    lines : line number of each row, from 1
    notes : notes on what was assumed
    """

    paths: tuple[Location, ...]
    names: tuple[str, ...]
    words: tuple[str, ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Base folder of the paths of a list; `has_backslashes` if these separate folders."""

    folder: Location
    has_backslashes: bool

    def name(self, text: str) -> str:
        return text.replace("\\", "/") if self.has_backslashes else text

    def path(self, text: str) -> Location:
        """Return the path that a text of the list names; an address stays as it is."""
        return to_path(text) if is_url(text) else self.folder / self.name(text)

    def is_file(self, text: str) -> bool:
        return bool(text) and _is_file(self.path(text))


@lru_cache(maxsize=4096)  # one question to an object store takes tens of milliseconds
def _is_remote_file(path: RemotePath) -> bool:
    return path.is_file()


def _is_file(path: Location) -> bool:
    try:
        return _is_remote_file(path) if isinstance(path, RemotePath) else path.is_file()
    except (OSError, ValueError):  # name too long, folder not readable
        return False


@dataclass(frozen=True)
class _Form:
    """Form of the lines: name of the separator, columns of path and class.

    `label` is None if everything after the path is the class.
    """

    separator: str
    path: int = 0
    label: int | None = None


def read_list(file: Location) -> ImageList:
    """Read a list of image files: one path or address per line, optionally with a class.

    Tabs, commas, semicolons or spaces separate the columns; the first line may be a header; paths
    are relative to the folder of the list or to the working folder. The form for which the files
    exist is used.

    Raises
    ------
    SemattnError
        For a file that is not text, a list without an existing file, and an ambiguous list.
    """
    try:
        texts, notes = read_lines(file)
    except (OSError, ValueError) as error:
        raise SemattnError(
            f"source: expected a text file with one path per line, got {file} ({error})"
        ) from error
    numbered = [(number, text.strip()) for number, text in enumerate(texts, 1) if text.strip()]
    comments = [row for row in numbered if row[1].startswith("#") and not _exists(file, row[1])]
    if comments:
        words = "lines with # are comments" if len(comments) > 1 else "line with # is a comment"
        notes.append(f"{len(comments)} {words}")
        left_out = set(comments)
        numbered = [row for row in numbered if row not in left_out]
    if not numbered:
        raise SemattnError(
            f"source: expected one path per line, got none in {file} — list image files"
        )
    lines = [text for _, text in numbered]
    place, form = _find_form(file, lines)
    rows = [_row(line, form, place) for line in lines]
    header = _header(lines, rows, form, place)
    if header is not None:
        rows = [_row(line, header, place) for line in lines[1:]]
        notes.append(f"its first line {lines[0][:SHORT]!r} names the columns")
        numbered = numbered[1:]
    if form.separator not in PLAIN:
        notes.append(f"{form.separator} separate path and class")
    if form.path and header is None:
        notes.append(f"column {form.path + 1} has the paths")
    if place.folder != file.parent and not all(
        is_url(path) or Path(path).is_absolute() for path, _ in rows
    ):
        notes.append(f"paths start at the working folder {place.folder}")
    if place.has_backslashes:
        notes.append("backslashes separate folders")
    names = tuple(path if is_url(path) else place.name(path) for path, _ in rows)
    return ImageList(
        tuple(place.path(path) for path, _ in rows), names, tuple(word for _, word in rows),
        tuple(number for number, _ in numbered), tuple(notes),
    )  # fmt: skip


def _exists(file: Location, text: str) -> bool:
    return _Place(file.parent, has_backslashes=False).is_file(re.split(r"\t", text)[0])


def _find_form(file: Location, lines: Sequence[str]) -> tuple[_Place, _Form]:
    """Return the place and the form for which most paths of a sample exist."""
    for sample in (lines[:: max(1, len(lines) // SAMPLE)], lines):
        best: tuple[int, _Place | None, list[_Form]] = (0, None, [])
        for place in _places(file, sample):
            for form in _forms(sample, place):
                count = sum(place.is_file(_row(line, form, place)[0]) for line in sample)
                if count > best[0]:
                    best = count, place, [form]
                elif count == best[0] and place is best[1]:
                    best[2].append(form)
            if best[0] >= len(sample) - 1 > 0:  # all lines, or all except a header
                break
        count, nearest, forms = best
        if nearest is not None:
            _check_readings(sample, forms, nearest)
            return nearest, forms[0]
    folders = list(dict.fromkeys(place.folder.resolve() for place in _places(file, lines)))
    where = (
        f"neither in {folders[0]} nor in {folders[1]}" if folders[1:] else f"not in {folders[0]}"
    )
    first = _row(lines[0], _Form("tabs"), _Place(file.parent, has_backslashes=False))[0]
    raise SemattnError(
        f"source: expected paths of images in {file}, got {first[:SHORT]!r} in the first line, "
        f"which is {where}, and no line names a file that exists — write paths from the folder of "
        "the list"
    )


def _places(file: Location, lines: Sequence[str]) -> list[_Place]:
    folders: list[Location] = [file.parent]
    if isinstance(file, Path) and file.parent.resolve() != Path.cwd():
        folders.append(Path.cwd())
    slashes = [False, True] if os.sep == "/" and any("\\" in line for line in lines) else [False]
    return [_Place(folder, slash) for slash in slashes for folder in folders]


def _forms(lines: Sequence[str], place: _Place) -> list[_Form]:
    """Return the possible forms of some lines: separators that occur, and whole lines."""
    forms = []
    for name, separator in SEPARATORS.items():
        if separator and not any(separator in line for line in lines):
            continue
        forms.append(_Form(name))
        if separator in ("", " "):
            continue
        cells = [_cells(line, separator) for line in lines]
        width = min(map(len, cells))
        counts = [sum(place.is_file(row[column]) for row in cells) for column in range(width)]
        if any(counts[1:]) and max(counts) > counts[0]:
            column = counts.index(max(counts))
            forms.append(_Form(name, column, 1 - column if width == 2 else -1))
    return forms


def _check_readings(lines: Sequence[str], forms: Sequence[_Form], place: _Place) -> None:
    """Raise SemattnError if two forms give different files that both exist."""
    for line in lines:
        first, *others = (_row(line, form, place)[0] for form in forms)
        for other in others:
            if other != first and place.is_file(first) and place.is_file(other):
                raise _two_readings(line, first, other)


def _cells(line: str, separator: str) -> list[str]:
    """Return the columns of a line; each may be quoted."""
    try:
        row = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:  # cell longer than the limit of csv
        row = line.split(separator)
    return [cell.strip() for cell in row]


def _row(line: str, form: _Form, place: _Place) -> Row:
    """Return the path and the class of a line."""
    separator = SEPARATORS[form.separator]
    if not separator or separator not in line:
        return _unquoted(line), ""
    if separator == " ":
        quoted = _QUOTED_FIRST.fullmatch(line)
        if quoted:
            return quoted[1], _unquoted(quoted[2] or "")
        return _split(line, r"\s+", place.is_file)
    cells = _cells(line, separator)
    if form.label is not None:
        path = cells[form.path] if form.path < len(cells) else ""
        return path, cells[form.label] if 0 <= form.label < len(cells) else ""
    if len(cells) == 2:
        return cells[0], cells[1]
    return _split(line, re.escape(separator), place.is_file)


def _split(line: str, pattern: str, is_file: Callable[[str], bool]) -> Row:
    """Split a line after a path that exists; else at the first separator.

    A line that is an existing path has no class.
    """
    places = [(match.start(), match.end()) for match in re.finditer(pattern, line)]
    rows = [(_unquoted(line[:start]), _unquoted(line[end:])) for start, end in reversed(places)]
    existing = next((row for row in rows if is_file(row[0])), None)
    if is_file(line):
        if existing is not None:
            raise _two_readings(line, line, existing[0])
        return line, ""
    return existing or (rows[-1] if rows else (line, ""))


def _two_readings(line: str, first: str, second: str) -> SemattnError:
    return SemattnError(
        f"source: expected one reading of the line {line[:SHORT]!r}, got {first[:SHORT]!r} and "
        f"{second[:SHORT]!r}, which both exist — write a tab after the path"
    )


def _unquoted(text: str) -> str:
    text = text.strip()
    quoted = _QUOTED.fullmatch(text)
    return quoted[2].strip() if quoted else text


def _header(lines: Sequence[str], rows: Sequence[Row], form: _Form, place: _Place) -> _Form | None:
    """Return the form that a header line gives, None without a header."""
    separator = SEPARATORS[form.separator]
    cells = _cells(lines[0], separator) if separator else [_unquoted(lines[0])]
    words = [cell.casefold() for cell in cells]
    if len(rows) < 2 or place.is_file(rows[0][0]):
        return None
    named = any(word in PATH_COLUMNS for word in words)
    bare = not re.search(r"[./\\0-9]", lines[0]) and len(words) > 1  # header in another language
    following = [path for path, _ in rows[1 : SAMPLE + 1]]
    if not named and not (bare and all("." in path for path in following)):
        return None
    classes = [column for column, word in enumerate(words) if word in CLASS_COLUMNS]
    if len(classes) > 1:
        found_classes = ", ".join(repr(cells[column]) for column in classes)
        raise SemattnError(
            f"source: expected one column of classes, got {found_classes} in the first line of the "
            "list — keep one"
        )
    if form.separator == "spaces" or not separator:
        return form
    columns = [column for column in range(len(words)) if column != form.path]
    if not classes and len(columns) == 1:
        classes = columns
    return _Form(form.separator, form.path, classes[0] if classes else -1)
