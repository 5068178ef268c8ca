"""Text output that works with every encoding and closed pipes, and tables that keep all columns.

`text_output` replaces each standard stream by a `TextStream` while a command runs; this covers
rich, typer and warnings. `open_console` and `new_table` create every console and every table of
the commands. `resumable_in` handles control-C in runs that can be resumed.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

# Replacements of the special characters that semattn writes, for encodings that lack them.
REPLACEMENTS = {
    "→": "->", "←": "<-", "×": "x", "−": "-", "–": "-", "—": "-", "…": "...", "·": "-",
    "•": "*", "✓": "ok", "✗": "x", "≥": ">=", "≤": "<=", "±": "+/-", "≈": "~", "∞": "inf",
    "↑": "up", "↓": "down", "’": "'", "‘": "'", "“": '"', "”": '"', "\xa0": " ", "\u202f": " ",
}  # fmt: skip
UNLIMITED = 100_000  # columns of an output that is not a terminal
VERBOSITY: ContextVar[int] = ContextVar("verbosity", default=0)
"""-1 with `-q`, 1 with `-v`; set by `verbosity.with_verbosity` while a command runs."""
MIN_COLUMN_WIDTH = 6  # characters of a folded column that is still readable
# The reader of the pipe has closed it; Windows reports this as EINVAL.
CLOSED = {errno.EPIPE, errno.ECONNRESET} | ({errno.EINVAL} if sys.platform == "win32" else set())


class TextStream(io.TextIOBase):
    """Standard stream that accepts any text.

    A character that the encoding lacks is written as its replacement or as an escape sequence. If
    the pipe is closed, or there is no stream, the text is dropped. Any other failure, such as a
    full disk, is stored in `failure` and does not stop the command.
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
        """Error handler of the stream; every character can be written."""
        return "backslashreplace"

    def writable(self) -> bool:
        """Return True: text is always accepted."""
        return True

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
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
        """Write a text, with replacements for characters that the encoding lacks."""
        if self.is_open:
            self._guarded(lambda: self.stream.write(encodable(text, self.encoding)))
        return len(text)

    def flush(self) -> None:
        """Flush the buffer of the stream."""
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
            # Python flushes the remaining buffer at exit and would fail there again.
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


def encodable(text: str, encoding: str) -> str:
    r"""Return a text that an encoding can represent, with replacements or escape sequences.

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
    """Replace standard output and standard error by a `TextStream` each, within the context."""
    originals = sys.stdout, sys.stderr
    if None in originals:
        _fill_descriptors()
    streams = TextStream(originals[0]), TextStream(originals[1])
    sys.stdout, sys.stderr = streams
    try:
        yield streams
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = originals


def _fill_descriptors() -> None:
    """Open the closed standard descriptors, so that no result file is opened as one of them."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return


def open_console(*, error: bool = False) -> Console:
    """Return a console on standard output, or on standard error; it prints nothing with `-q`.

    An output that is not a terminal has no width limit: no text is cut or folded.
    """
    stream = sys.stderr if error else sys.stdout
    quiet = VERBOSITY.get() < 0
    console = Console(file=stream, highlight=False, quiet=quiet)
    if console.is_terminal:
        return console
    return Console(file=stream, highlight=False, quiet=quiet, width=UNLIMITED)


def new_table(gap: int, *, header: bool = True) -> Table:
    """Return an empty table without lines, its columns `gap` spaces apart."""
    return Table(
        box=None, show_header=header, header_style="dim", pad_edge=False, padding=(0, gap, 0, 0)
    )


def print_table(console: Console, table: Table) -> None:
    """Print a table; on a narrow terminal, cells are folded and never cut."""
    width = Measurement.get(console, console.options.update(width=UNLIMITED), table).maximum
    if width <= console.width:
        console.print(table)
        return
    gap = table.padding[1]
    if console.width >= len(table.columns) * (MIN_COLUMN_WIDTH + gap):
        for column in table.columns:
            column.no_wrap, column.overflow = False, "fold"
            column.min_width = None
        console.print(table)
    else:  # the terminal breaks the lines
        Console(
            file=console.file, highlight=False, width=UNLIMITED, force_terminal=True,
            quiet=console.quiet,
        ).print(table)  # fmt: skip


class InterruptedRunError(Exception):
    """Interruption of a run that can be resumed."""


@contextmanager
def resumable_in(folder: Path) -> Iterator[None]:
    """Replace KeyboardInterrupt by an error that says how to resume, if `folder` exists.

    Raises
    ------
    InterruptedRunError
        At control-C, if `folder` exists.
    """
    try:
        yield
    except KeyboardInterrupt:
        if folder.is_dir():
            raise InterruptedRunError(
                f"interrupted — finished work is kept in {folder}; the same command resumes it"
            ) from None
        raise
