"""Text: files in the encodings that editors and spreadsheets write, and values for JSON."""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from .remote_path import Location, RemotePath

# Byte-order marks and encodings; UTF-32 first, because its mark starts with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
WESTERN = "cp1252"  # the fallback for bytes that are not UTF-8
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LINE_END = re.compile("\r\n|\n|\r")


def decode(content: bytes) -> tuple[str, str]:
    """Decode bytes, and return the text and the encoding.

    A byte-order mark sets the encoding. Without a mark it is UTF-8, or else `WESTERN`.

    Raises
    ------
    ValueError
        For bytes that are not text.

    Examples
    --------
    >>> decode("cat".encode("utf-16"))
    ('cat', 'utf-16-le')
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            text = content[len(mark) :].decode(encoding)
            break
    else:
        try:
            text, encoding = content.decode("utf-8"), "utf-8"
        except UnicodeDecodeError:
            text, encoding = content.decode(WESTERN), WESTERN
    if _NO_TEXT.search(text):
        raise ValueError("it is not a text file")
    return text, encoding


def read_lines(file: Location) -> tuple[list[str], list[str]]:
    """Return the lines of a text file, without line ends, and notes on an assumed encoding.

    Raises
    ------
    OSError, ValueError
        For a file that cannot be read or that is not text.
    """
    if file.exists() and not file.is_file():  # reading a pipe or device may never end
        raise OSError("it is not a regular file")
    text, encoding = decode(file.read_bytes())
    notes = [f"bytes that are not UTF-8 are read as {WESTERN}"] if encoding == WESTERN else []
    return _LINE_END.split(text), notes


def to_json_number(value: Any) -> float | bool | None:
    """Return a number or boolean for JSON, which has neither NaN nor infinity: None for those.

    Examples
    --------
    >>> to_json_number(2), to_json_number(float("nan")), to_json_number(True)
    (2.0, None, True)
    """
    value = value.item() if hasattr(value, "item") else value  # of numpy
    if isinstance(value, bool):
        return value
    return float(value) if math.isfinite(value) else None


def to_json_value(value: Any) -> Any:
    """Return a value ready for JSON: NaN and infinity as None, arrays as lists, paths as text.

    Containers are converted with their content.

    Examples
    --------
    >>> from pathlib import Path
    >>> to_json_value({"a": (1.0, float("nan")), "file": Path("a/b.png")})
    {'a': [1.0, None], 'file': 'a/b.png'}
    """
    if hasattr(value, "tolist"):  # of numpy and torch
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): to_json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json_value(item) for item in value]
    if isinstance(value, float):
        return to_json_number(value)
    if isinstance(value, RemotePath):
        return str(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
