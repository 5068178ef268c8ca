"""Text output that fails on no encoding and no closed pipe, and tables that lose no column.

`text_output` puts a `TextStream` in the place of each standard stream while a command runs, which
covers rich, typer and warnings. `open_console` and `new_table` build every console and every table
of the commands.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

# Readable forms of the signs that semattn writes, for encodings that lack them.
REPLACEMENTS = {
    "→": "->", "←": "<-", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "·": "-",
    "•": "*", "✓": "ok", "✗": "x", "≥": ">=", "≤": "<=", "±": "+/-", "≈": "~", "∞": "inf",
    "↑": "up", "↓": "down", "’": "'", "‘": "'", "“": '"', "”": '"', "\xa0": " ", "\u202f": " ",
}  # fmt: skip
UNLIMITED = 100_000  # columns of an output that is no terminal
NARROWEST = 6  # characters of a folded column that can still be read
# A reader that has gone; Windows reports it as EINVAL.
CLOSED = {errno.EPIPE, errno.ECONNRESET} | ({errno.EINVAL} if sys.platform == "win32" else set())


class TextStream(io.TextIOBase):
    """A standard stream that takes any text.

    A character that the encoding lacks is written as its replacement, or as its escape. Once the
    reader of a pipe has gone, or where there is no stream, the text is dropped. Another failure,
    such as a full disk, is kept in `failure` and does not stop the command.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.failure: OSError | None = None
        self.is_open = stream is not None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Every character has a form."""
        return "backslashreplace"

    def writable(self) -> bool:
        """Text is always taken."""
        return True

    def isatty(self) -> bool:
        """Return whether a terminal shows the text."""
        try:
            return self.is_open and bool(self.stream.isatty())
        except (ValueError, AttributeError):
            return False

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        if self.stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.stream.fileno())

    def write(self, text: str) -> int:
        """Write a text in the characters that the encoding has."""
        if self.is_open:
            self._guarded(lambda: self.stream.write(encodable(text, self.encoding)))
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered."""
        if self.is_open:
            self._guarded(self.stream.flush)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except ValueError:  # the stream was closed
            self.is_open = False
        except OSError as error:
            self.is_open = False
            if error.errno not in CLOSED:
                self.failure = error
            # Python flushes at exit what is still buffered, and would fail there again.
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def encodable(text: str, encoding: str) -> str:
    r"""Return a text in characters of an encoding: with replacements, else with escapes.

    Examples
    --------
    >>> encodable("2 × 3 → ✓ é 猫", "ascii"), encodable("2 × 3 → é", "cp1252")
    ('2 x 3 -> ok \\xe9 \\u732b', '2 × 3 -> é')
    """
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(_encodable(character, encoding) for character in text)
    except LookupError:
        return encodable(text, "ascii")
    return text


def _encodable(character: str, encoding: str) -> str:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        replacement = REPLACEMENTS.get(character, character)
        return replacement.encode("ascii", "backslashreplace").decode("ascii")
    return character


@contextmanager
def text_output() -> Iterator[tuple[TextStream, TextStream]]:
    """Replace standard output and standard error by a `TextStream` each, until the end."""
    before = sys.stdout, sys.stderr
    if None in before:
        _fill_descriptors()
    streams = TextStream(before[0]), TextStream(before[1])
    sys.stdout, sys.stderr = streams
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def _fill_descriptors() -> None:
    """Occupy the standard descriptors that are closed, so that no result file becomes one."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


def open_console(*, error: bool = False) -> Console:
    """Return a console on standard output, or on standard error.

    An output that is no terminal has no width: nothing in it is cut or folded.
    """
    stream = sys.stderr if error else sys.stdout
    made = Console(file=stream, highlight=False)
    return made if made.is_terminal else Console(file=stream, highlight=False, width=UNLIMITED)


def new_table(gap: int, *, header: bool = True) -> Table:
    """Return an empty table without lines, its columns `gap` spaces apart."""
    return Table(
        box=None, show_header=header, header_style="dim", pad_edge=False, padding=(0, gap, 0, 0)
    )


def print_table(to: Console, rows: Table) -> None:
    """Print a table; on a narrow terminal its cells fold, and none is cut."""
    wanted = Measurement.get(to, to.options.update(width=UNLIMITED), rows).maximum
    if wanted <= to.width:
        to.print(rows)
        return
    gap = rows.padding[1]
    if to.width >= len(rows.columns) * (NARROWEST + gap):
        for column in rows.columns:
            column.no_wrap, column.overflow = False, "fold"
            column.min_width = None
        to.print(rows)
    else:  # the terminal breaks the lines
        Console(file=to.file, highlight=False, width=UNLIMITED, force_terminal=True).print(rows)
