"""Files that are written whole, or not at all, and arrays that are read with care."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

MOST = 2**30  # bytes of all arrays in a file
TEXT = "text"  # the file in the folder of a claim
STALE_SECONDS = 60.0  # age from which a partial file that no process writes to is removed
_PARTIAL = re.compile(r"\..+\.([0-9]+)\.[0-9]+")  # names of `_hidden`

# What numpy, zipfile and json raise of a file that is damaged, or made to do harm.
DAMAGE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
    MemoryError, OverflowError, SyntaxError, TokenError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


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
    """Write a text unless the file is there already, and return the text that the file holds.

    Of several processes and threads exactly one writes, and none sees a part of the text. Needs no
    hard links: exFAT and many network disks have none.
    """
    own = _hidden(file)
    try:
        own.write_text(text, encoding="utf-8")
        os.link(own, file)
    except FileExistsError:
        return file.read_text(encoding="utf-8")
    except (OSError, NotImplementedError, AttributeError):  # no hard links here, or no room
        return _claim_by_folder(file, text)
    finally:
        own.unlink(missing_ok=True)
    return text


def _claim_by_folder(file: Path, text: str) -> str:
    """Claim a file by renaming a folder that holds its text, which fails where one is already.

    The folder is complete when it gets its name, so that a process that dies leaves a claim that
    the next one completes. A claim is removed only once the file stands: whoever reads a claim and
    finds no file afterwards has read the first claim.
    """
    claimed = file.with_name(f".{file.name}.claim")
    own = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    try:
        (own / TEXT).write_text(text, encoding="utf-8")
        try:
            own.rename(claimed)
        except OSError:
            if not claimed.is_dir() and not file.exists():
                raise
        try:
            text = (claimed / TEXT).read_text(encoding="utf-8")
        except FileNotFoundError:  # removed by the process that wrote the file
            return file.read_text(encoding="utf-8")
        if file.exists():
            text = file.read_text(encoding="utf-8")
        else:
            write_text(file, text)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    with suppress(OSError):
        (claimed / TEXT).unlink()
        claimed.rmdir()
    return text


def read_arrays(file: Path, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``, or `only` some that may be there; nothing in it is unpickled.

    Raises
    ------
    ValueError
        For arrays that would take more than `MOST` bytes, and for what is no array; for damage,
        one of `DAMAGE`.
    """
    import numpy as np

    with file.open("rb") as stream:
        with zipfile.ZipFile(stream) as packed:
            size = sum(one.file_size for one in packed.infolist())
            other = [name for name in packed.namelist() if not name.endswith(".npy")]
        if size > MOST:
            raise ValueError(f"arrays of {size:,} bytes")
        if other:
            raise ValueError(f"{other[0][:40]!r}, which is no array")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as kept:
            return {name: kept[name] for name in kept.files if only is None or name in only}


def partial_files(folder: Path) -> list[Path]:
    """Return the files that processes which ended left half written in a folder.

    Processes of other machines are not seen: a file that changed in the last minute is left out.
    """
    if not folder.is_dir():
        return []
    stale = []
    for file in folder.iterdir():
        match = _PARTIAL.fullmatch(file.name)
        with suppress(OSError):  # renamed in the meantime
            if match and time.time() - file.stat().st_mtime > STALE_SECONDS:
                stale += [] if _runs(int(match[1])) else [file]
    return stale


def _runs(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _hidden(file: Path) -> Path:
    """A name beside a file that no other process or thread takes."""
    return file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
