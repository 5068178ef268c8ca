"""Files of object stores and other remote file systems, through fsspec.

`RemotePath` has the methods of `pathlib.Path` that semattn uses, and those that object stores add:
a file is written by a single request, or only if it does not exist.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol, TypeAlias, TypeGuard

from ..errors import MissingPackageError, SemattnError

EXTRAS = {"s3fs": "semattn[cloud]", "gcsfs": "semattn[cloud]"}
PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub",
    "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "http": "aiohttp", "https": "aiohttp",
}  # fmt: skip
OBJECT_STORES = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"))
REMOTE = -2  # third number of the stamp of a remote file
THREADS = 16  # requests at a time
# Entries of fsspec that change when a file changes; a store has some of them.
_VERSIONS = ("ETag", "etag", "checksum", "md5Hash", "crc32c", "generation", "blob_id")
_TIMES = ("LastModified", "last_modified", "updated", "mtime", "modified", "created")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::.*)?://")
_ADDRESS_AS_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::.*)?:/")  # // becomes / in a path
_LOCAL = ("file://", "local://")


@dataclass(frozen=True)
class RemotePath:
    """File or folder of a remote file system.

    Parameters
    ----------
    url : address for fsspec, such as ``s3://bucket/folder``
    entry : what a listing said about the file: size and version; None asks the store when needed
    """

    url: str
    entry: tuple[int, str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        protocol, separator, path = self.url.partition("://")
        object.__setattr__(self, "url", f"{protocol}{separator}{path.rstrip('/')}")

    def __str__(self) -> str:
        return self.url

    def as_posix(self) -> str:
        """Return the address."""
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        text = str(name)
        if is_url(text):
            return RemotePath(text)
        first, chain, rest = self.url.partition("::")
        if chain and "://" not in first:  # such as simplecache::s3://bucket
            return RemotePath(f"{self.url}/{text}")
        return RemotePath(f"{first.rstrip('/')}/{text}{chain}{rest}")

    def __lt__(self, other: RemotePath) -> bool:
        return self.url < other.url

    @property
    def _pure(self) -> PurePosixPath:
        first, _, rest = self.url.partition("::")
        return PurePosixPath((first if "://" in first else rest).partition("://")[2])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._pure.name

    @property
    def stem(self) -> str:
        """The last part of the path without its ending."""
        return self._pure.stem

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return self._pure.suffix

    @property
    def parent(self) -> RemotePath:
        """The folder."""
        first, chain, rest = self.url.partition("::")
        if chain and "://" not in first:
            return RemotePath(f"{first}::{RemotePath(rest).parent.url}")
        protocol, _, path = first.partition("://")
        return RemotePath(f"{protocol}://{path.rpartition('/')[0]}{chain}{rest}")

    def with_name(self, name: str) -> RemotePath:
        """Return the path of another file of the same folder."""
        return self.parent / name

    def resolve(self) -> RemotePath:
        """Return the path itself: it is absolute."""
        return self

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        """Return the path below a folder."""
        return self._pure.relative_to(folder._pure)

    def exists(self) -> bool:
        """Return whether there is a file or a folder."""
        return self._information() is not None

    def is_dir(self) -> bool:
        """Return whether there is a folder: a name that files begin with."""
        information = self._information()
        return information is not None and information["type"] == "directory"

    def is_file(self) -> bool:
        """Return whether there is a file."""
        information = self._information()
        return information is not None and information["type"] == "file"

    def iterdir(self) -> Iterator[RemotePath]:
        """Yield the files and folders of a folder."""
        with self._system() as (system, path):
            entries = system.ls(path, detail=True)
            yield from (self._child(path, entry) for entry in entries if entry["name"] != path)

    def walk_files(self) -> Iterator[RemotePath]:
        """Yield all files of a folder and its subfolders."""
        with self._system() as (system, path):
            entries = system.find(path, detail=True).values()
            yield from (self._child(path, entry) for entry in entries)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file for reading."""
        with self._system() as (system, path):
            stream: IO[bytes] = system.open(path, mode)
            return stream

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.read_range(None, None)

    def read_range(self, start: int | None, end: int | None) -> bytes:
        """Return the bytes from `start` to `end`, excluded."""
        with self._system() as (system, path):
            content: bytes = system.cat_file(path, start=start, end=end)
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding)

    def upload(self, file: Path) -> None:
        """Write the content of a local file; it appears when it is complete."""
        with self._system() as (system, path):
            if _writes_at_once(system):
                system.put_file(str(file), path)
            else:  # such as a disk of another machine: written bit by bit, then renamed
                part = f"{path}.{uuid.uuid4().hex}.part"
                system.put_file(str(file), part)
                system.mv(part, path)

    def download(self, file: Path) -> None:
        """Copy the content to a local file."""
        with self._system() as (system, path):
            system.get_file(path, str(file))

    def unlink(self) -> None:
        """Remove the file, if it exists."""
        with self._system() as (system, path):
            try:
                system.rm_file(path)
            except FileNotFoundError:
                return

    def can_create(self) -> bool:
        """Return whether the store writes a file only if it does not exist, in one step."""
        with self._system() as (system, _):
            return _creates_at_once(system)

    def create(self, content: bytes) -> bool:
        """Write the file unless it exists, in one step; return whether it was written."""
        with self._system() as (system, path):
            try:
                system.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            return True

    def stamp(self) -> tuple[int, int, int]:
        """Return the size and a number for the version of the file: its ETag, checksum or time.

        The numbers are -1 and 0 if the store tells neither: then only the content identifies the
        file.
        """
        entry = self.entry
        if entry is None:
            information = self._information()
            entry = None if information is None else _entry(information)
        if entry is None or not entry[1]:
            return -1, 0, 0
        digest = hashlib.sha256(entry[1].encode()).digest()
        return entry[0], int.from_bytes(digest[:7], "big"), REMOTE

    def _child(self, folder: str, entry: Mapping[str, Any]) -> RemotePath:
        name, folder = str(entry["name"]), folder.rstrip("/")
        if not name.startswith(f"{folder}/"):
            raise OSError(errno.EIO, f"{self.url} lists {name}, which is not in it")
        return RemotePath((self / name[len(folder) + 1 :]).url, _entry(entry))

    def _information(self) -> dict[str, Any] | None:
        """Return what the store says about the path; None if it does not exist."""
        with self._system() as (system, path):
            try:
                information: dict[str, Any] = system.info(path)
            except FileNotFoundError:
                return None
            return information

    @contextmanager
    def _system(self) -> Iterator[tuple[Any, str]]:
        """Return the file system and the path in it; errors of its libraries become OSError.

        fsspec keeps one system for each process, so that none is shared with a parent process.
        """
        protocol = self.url.partition("://")[0].rpartition("::")[2]
        try:
            import fsspec

            system, path = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            package = PACKAGES.get(protocol, str(error))
            raise MissingPackageError(
                f"{protocol}: expected {package}, which reads {self.url}, got none — "
                f"pip install {f'{EXTRAS[package]!r}' if package in EXTRAS else package}"
            ) from error
        except ValueError as error:
            raise SemattnError(
                f"address: expected a protocol of fsspec, such as s3:// or gs://, got {self.url} "
                f"({error}) — check it"
            ) from error
        try:
            yield system, path
        except (OSError, SemattnError, GeneratorExit):
            raise
        except Exception as error:  # such as missing credentials: an error of the store's library
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


Location: TypeAlias = "Path | RemotePath"
LocationLike: TypeAlias = "str | os.PathLike[str] | RemotePath"


def is_url(text: str) -> bool:
    """Return whether a text is an address, such as ``s3://bucket/folder``, and not a local path.

    Examples
    --------
    >>> is_url("s3://bucket/folder"), is_url("photos/cat"), is_url("C:/photos")
    (True, False, False)
    """
    return bool(_URL.match(text))


def check_local(folder: str | os.PathLike[str]) -> None:
    """Raise SemattnError for an address, which a path would turn into a local folder ``s3:``."""
    text = Path(folder).as_posix()
    if _ADDRESS_AS_PATH.match(text):
        raise SemattnError(
            f"out: expected a local folder, got the address {text} — write to a local folder, and "
            "copy that; semattn audit and semattn.utils.mirror.mirrored copy by themselves"
        )


def to_path(location: LocationLike) -> Location:
    """Return a local path, or a `RemotePath` for an address.

    Examples
    --------
    >>> to_path("s3://bucket/cat/1.png").name, to_path("file:///data/cat").as_posix()
    ('1.png', '/data/cat')
    """
    if isinstance(location, RemotePath):
        return location
    text = os.fspath(location)
    if text.startswith(_LOCAL):
        from fsspec.implementations.local import LocalFileSystem

        return Path(LocalFileSystem._strip_protocol(text))
    return RemotePath(text) if is_url(text) else Path(text)


class StoredFile(Protocol):
    """Image input that holds encoded bytes and is not a local path."""

    def read_bytes(self) -> bytes:
        """Return the encoded bytes."""


def is_stored_file(source: object) -> TypeGuard[StoredFile]:
    """Return whether an image input holds encoded bytes and is not a local path.

    These are remote files, members of archives and rows of data sets.
    """
    return hasattr(source, "read_bytes") and not isinstance(source, os.PathLike)


@dataclass(frozen=True)
class FetchedFile:
    """Content of a remote file, read once for all its uses.

    Parameters
    ----------
    source : the remote file, or the member of a remote archive
    content : its bytes
    """

    source: Any
    content: bytes = field(repr=False)

    def __str__(self) -> str:
        return str(self.source)

    def read_bytes(self) -> bytes:
        """Return the content."""
        return self.content

    def stamp(self) -> tuple[int, int, int]:
        """Return the stamp of the remote file."""
        remote: RemotePath = _remote_file(self.source)
        return remote.stamp()


def fetch(sources: Sequence[Any]) -> list[Any]:
    """Return image inputs with the content of remote ones, which is read by many requests at once.

    A remote file that cannot be read is returned as it is, so that reading it raises the error.
    """
    remote = [
        number for number, source in enumerate(sources)
        if isinstance(_remote_file(source), RemotePath)
    ]  # fmt: skip
    fetched = list(sources)
    if remote:
        with ThreadPoolExecutor(min(THREADS, len(remote))) as pool:
            for number, content in zip(
                remote, pool.map(lambda number: _content(sources[number]), remote), strict=True
            ):
                if content is not None:
                    fetched[number] = FetchedFile(sources[number], content)
    return fetched


def _remote_file(source: Any) -> Any:
    """Return the file that holds an image: for a member of an archive, the archive."""
    return getattr(source, "archive", source)


def _content(source: Any) -> bytes | None:
    try:
        content: bytes = source.read_bytes()
    except OSError:
        return None
    return content


def _creates_at_once(system: Any) -> bool:
    """Return whether a file system has its own way to write a file only if it does not exist.

    That of fsspec asks first and writes then, so that two processes may both write.
    """
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    kind = type(system)
    is_async = issubclass(kind, AsyncFileSystem)
    name, base = ("_pipe_file", AsyncFileSystem) if is_async else ("pipe_file", AbstractFileSystem)
    method, general = getattr(kind, name), getattr(base, name)
    return method is not general and "mode" in inspect.signature(method).parameters


def _writes_at_once(system: Any) -> bool:
    """Return whether readers see a file of a store only when it is complete."""
    protocols = system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)
    return _creates_at_once(system) or not OBJECT_STORES.isdisjoint(protocols)


def _entry(information: Mapping[str, Any]) -> tuple[int, str]:
    """Return the size of a file and a text for its version, "" if the store does not tell it."""
    stated = {name: value for name, value in information.items() if value not in (None, "")}
    # Times only without a version: a listing and a single request may round them differently.
    names = [name for name in _VERSIONS if name in stated] or [
        name for name in _TIMES if name in stated
    ]
    values = (stated[name] for name in names)
    texts = [str(v.timestamp() if isinstance(v, datetime) else v) for v in values]
    return int(information.get("size") or 0), " ".join(
        map("=".join, zip(names, texts, strict=True))
    )
