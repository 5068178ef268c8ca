"""Text files in the encodings that editors and spreadsheets write."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

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


def read_lines(file: Path) -> tuple[list[str], list[str]]:
    """Return the lines of a text file, without line ends, and notes on assumptions.

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
