"""Atomic writing of files, and safe reading of arrays."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

MOST = 2**30  # bytes of all arrays in a file
TEXT = "text"  # name of the file in the folder of a claim
_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)  # of file systems without it
STALE_SECONDS = 60.0  # age from which a partial file of an ended process is removed
_TEMPORARY_NAME = re.compile(r"\..+\.([0-9]+)\.[0-9]+")  # names of `_hidden`

# Errors that numpy, zipfile and json raise for damaged and malicious files.
DAMAGE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RuntimeError,
    MemoryError, OverflowError, SyntaxError, TokenError, struct.error, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip


@contextmanager
def atomic_path(file: Path) -> Iterator[Path]:
    """Return a path for a temporary file that replaces `file` at the end of the ``with``.

    The temporary file is hidden, and in the same folder, so that it is renamed. Readers see the old
    file or the new one, also with several writers, and after a power failure. On an error, the
    temporary file is removed.
    """
    temporary = _temporary_path(file)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(file)
        _flush(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the system offers it."""
    is_folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except OSError:  # Windows opens no folder
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:  # EIO and ENOSPC: the content is lost
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(file: Path) -> Iterator[IO[bytes]]:
    """Open a binary stream whose content replaces `file` at the end, see `atomic_path`."""
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        yield stream


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(file) as stream:
        stream.write(content)


def write_text(file: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(file, text.encode("utf-8"))


def write_if_absent(file: Path, text: str) -> str:
    """Write a text unless the file exists, and return the text of the file.

    Exactly one of several processes and threads writes, and none reads a part of the text. Works
    without hard links, which exFAT and many network disks lack.
    """
    temporary = _temporary_path(file)
    try:
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        os.link(temporary, file)
    except FileExistsError:
        return file.read_text(encoding="utf-8")
    except (OSError, NotImplementedError, AttributeError):  # no hard links here, or no room
        return _claim_by_rename(file, text)
    finally:
        temporary.unlink(missing_ok=True)
    return text


def _claim_by_rename(file: Path, text: str) -> str:
    """Write a file unless it exists, by renaming a folder that holds the text.

    The rename fails if another process has claimed the file. The folder is complete when it is
    renamed, so that another process can complete the claim of a process that was killed. A claim
    is removed only after the file exists.
    """
    claim_folder = file.with_name(f".{file.name}.claim")
    temporary = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    try:
        (temporary / TEXT).write_text(text, encoding="utf-8")
        try:
            temporary.rename(claim_folder)
        except OSError:
            if not claim_folder.is_dir() and not file.exists():
                raise
        try:
            text = (claim_folder / TEXT).read_text(encoding="utf-8")
        except FileNotFoundError:  # removed by the process that wrote the file
            return file.read_text(encoding="utf-8")
        if file.exists():
            text = file.read_text(encoding="utf-8")
        else:
            write_text(file, text)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    with suppress(OSError):
        (claim_folder / TEXT).unlink()
        claim_folder.rmdir()
    return text


def read_arrays(file: Path, only: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file without unpickling.

    Parameters
    ----------
    only : names of the arrays to read; missing ones are left out; None reads all

    Raises
    ------
    ValueError
        For arrays of more than `MOST` bytes, and for other content than arrays. A damaged file
        raises one of `DAMAGE`.
    """
    import numpy as np

    with file.open("rb") as stream:
        with zipfile.ZipFile(stream) as archive:
            size = sum(member.file_size for member in archive.infolist())
            other_names = [name for name in archive.namelist() if not name.endswith(".npy")]
        if size > MOST:
            raise ValueError(f"arrays of {size:,} bytes")
        if other_names:
            raise ValueError(f"{other_names[0][:40]!r}, which is not an array")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if only is None or name in only}


def with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays whose names start with a prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def partial_files(folder: Path) -> list[Path]:
    """Return the temporary files in a folder that ended processes left behind.

    A file that changed in the last minute is left out: a process of another machine, which cannot
    be checked, may still write it.
    """
    if not folder.is_dir():
        return []
    stale_files = []
    for file in folder.iterdir():
        match = _TEMPORARY_NAME.fullmatch(file.name)
        with suppress(OSError):  # renamed in the meantime
            if match and time.time() - file.stat().st_mtime > STALE_SECONDS:
                stale_files += [] if _is_running(int(match[1])) else [file]
    return stale_files


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _temporary_path(file: Path) -> Path:
    """Return a hidden path in the same folder that is unique to this process and thread."""
    return file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray], about: str) -> None:
    """Write arrays and a JSON text about them as a compressed ``.npz`` file; see `read_about`."""
    import numpy as np

    text = np.frombuffer(about.encode("utf-8"), dtype=np.uint8)
    with atomic_write(file) as stream:
        np.savez_compressed(stream, **arrays, about=text)  # type: ignore[arg-type]


def read_about(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the object of the JSON text that `write_arrays` stored among the arrays."""
    about: dict[str, Any] = json.loads(arrays["about"].tobytes().decode("utf-8"))
    return about
