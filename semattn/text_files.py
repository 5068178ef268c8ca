"""Text files in the encodings that editors and spreadsheets write."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

# The mark at the start of a file -> its encoding; UTF-32 before UTF-16, whose mark it starts with.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
WESTERN = "cp1252"  # of Windows; bytes that are no UTF-8 are read in it
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LINE_END = re.compile("\r\n|\n|\r")


def decode(content: bytes) -> tuple[str, str]:
    """Return the text of some bytes, and the encoding.

    A byte-order mark decides; without one the text is UTF-8, or `WESTERN` if it cannot be.

    Raises
    ------
    ValueError
        For bytes that are no text.

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
        raise ValueError("it holds bytes that are no text")
    return text, encoding


def read_lines(file: Path) -> tuple[list[str], list[str]]:
    """Return the lines of a text file, without their ends, and notes on what was assumed.

    Raises
    ------
    OSError, ValueError
        For a file that cannot be read, and for one that holds no text.
    """
    if file.exists() and not file.is_file():  # which may never end
        raise OSError("it is no plain file")
    text, encoding = decode(file.read_bytes())
    notes = [f"bytes that are no UTF-8 are read as {WESTERN}"] if encoding == WESTERN else []
    return _LINE_END.split(text), notes
