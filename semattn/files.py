"""Files that are written whole, or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole(file: Path) -> Iterator[IO[bytes]]:
    """A stream that becomes `file` at the end of the ``with``; where it fails, nothing is left.

    It is written beside it under a hidden name of its own, and renamed: who reads sees the old
    file or the new one, whichever processes and threads write it.
    """
    partial = _hidden(file)
    try:
        with partial.open("wb") as stream:
            yield stream
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> None:
    """Write a text: whole, or not at all."""
    with whole(file) as stream:
        stream.write(text.encode("utf-8"))


def claim(file: Path, text: str) -> str:
    """Write a text unless the file is there already: what stands in it, whoever was first."""
    own = _hidden(file)
    try:
        own.write_text(text, encoding="utf-8")
        os.link(own, file)
    except FileExistsError:
        return file.read_text(encoding="utf-8")
    finally:
        own.unlink(missing_ok=True)
    return text


def _hidden(file: Path) -> Path:
    """A name beside a file that no other process or thread takes."""
    return file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
