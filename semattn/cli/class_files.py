"""Reading of files with class names: one name a line, numbered lines, or JSON.

This module imports no model code.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SemattnError
from ..utils.text import read_lines

COLUMNS = {
    "index", "idx", "id", "number", "class", "classes", "class_id", "class_index", "name", "names",
    "class_name", "label", "label_id", "label_name",
}  # fmt: skip
NUMBERED = "its lines are taken as numbers and names of classes"
_NUMBER_FIRST = re.compile(r"([0-9]{1,9})(?:\s*[:,;\t]\s*|\s+|\.\s+)(\S.*)")
_NUMBER_LAST = re.compile(r"(\S|\S.*?\S)(?:\s*[:,;\t]\s*|\s+)([0-9]{1,9})")
_WORDNET_FIRST = re.compile(r"n[0-9]{8}(?:\s*[:,;\t]\s*|\s+)(\S.*)")
_QUOTED = re.compile(r"""(["'])(.+)\1""")


def read_class_names(file: Path) -> tuple[tuple[str, ...], str]:
    """Return the class names in a file, by class number, and a note on assumptions ("" for none).

    Parameters
    ----------
    file : one name a line, in the order of the classes; or lines with numbers (``0 cat``,
        ``cat,0``, ``0: cat``); or a list or dict in JSON, such as ImageNet's class index

    Raises
    ------
    ValueError
        For a file that cannot be read, is not text, or is ambiguous.
    """
    try:
        texts, notes = read_lines(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"class names: expected a text file with one name a line, got {file} ({error})"
        ) from error
    lines = [text.strip() for text in texts if text.strip()]
    content = _parse_structure(lines)
    if content is None:
        names, note = _names_from_lines(lines, file)
    else:
        names, note = _names_from_structure(content, file), "its names are read from a list or dict"
    notes += [note] if note else []
    return names, f"class names: {'; '.join(notes)}" if notes else ""


def _parse_structure(lines: Sequence[str]) -> Any:
    """Parse the lines as a list or dict in JSON or Python syntax; return None for other text."""
    text = "\n".join(lines)
    if (text[:1], text[-1:]) not in (("[", "]"), ("{", "}")):
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _names_from_structure(content: Any, file: Path) -> tuple[str, ...]:
    """Return the names in a list, in a dict by numbers, or in a dict of numbers by names."""
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]  # config.json of transformers
    if isinstance(content, dict):
        pairs = [(str(key), value) for key, value in content.items()]
        if all(isinstance(value, int) for _, value in pairs):  # a class_to_idx of torchvision
            pairs = [(str(number), name) for name, number in pairs]
        values = _order_by_number(pairs)
    else:
        values = list(content)
    if values is not None:  # ImageNet's index has pairs of WordNet number and name
        names = [item[-1] if isinstance(item, list | tuple) and item else item for item in values]
        if names and all(isinstance(name, str) for name in names):
            return tuple(name.strip() for name in names)
    raise ValueError(
        "class names: expected a list of names, or a name for each number from 0, "
        f"got {file} — write one name a line"
    )


def _names_from_lines(lines: list[str], file: Path) -> tuple[tuple[str, ...], str]:
    """Return the names in the lines, and a note on assumptions."""
    names_and_notes = {}
    columns = re.split(r"[\s,;:]+", lines[0].casefold()) if lines else []
    rows = lines[1:] if len(columns) == 2 and COLUMNS.issuperset(columns) else lines
    for number, name, pattern in ((1, 2, _NUMBER_FIRST), (2, 1, _NUMBER_LAST)):
        matches = [pattern.fullmatch(line) for line in rows]
        if rows and all(matches):
            names = _order_by_number([(match[number], match[name]) for match in matches if match])
            # "class 0", "class 1" are names with numbers, not numbered names
            if names is not None and 2 * len(set(names)) > len(names):
                names_and_notes[tuple(map(_unquoted, names))] = NUMBERED
    if len(names_and_notes) > 1:
        raise SemattnError(
            f"class names: expected one number a line, got {rows[0]!r} in {file}, which is "
            "ambiguous — write one name a line"
        )
    if names_and_notes:
        return next(iter(names_and_notes.items()))
    wordnet = [_WORDNET_FIRST.fullmatch(line) for line in lines]
    if lines and all(wordnet):
        names = [match[1] for match in wordnet if match]
        return tuple(names), "WordNet numbers before its names are left out"
    if lines and all(map(_QUOTED.fullmatch, lines)):
        return tuple(map(_unquoted, lines)), "quotes around its names are left out"
    return tuple(lines), ""


def _order_by_number(pairs: Sequence[tuple[str, Any]]) -> list[Any] | None:
    """Return the values in the order of their numbers, from 0 or 1; None for other numbers."""
    if not all(re.fullmatch("[0-9]{1,9}", number) for number, _ in pairs):
        return None
    by_number = {int(number): value for number, value in pairs}
    start = min(by_number, default=0)
    if start > 1 or sorted(by_number) != list(range(start, start + len(pairs))):
        return None
    return [by_number[number] for number in sorted(by_number)]


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text.rstrip(","))
    return quoted[2] if quoted else text
