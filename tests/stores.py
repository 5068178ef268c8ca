"""Object stores for tests: one without renames and hard links, and one that fails when told."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from semattn.utils.remote_path import RemotePath


class ObjectStore(MemoryFileSystem):
    """Store in memory that has neither renames nor appending, and that counts its requests."""

    protocol = "objects"
    store: dict = {}  # noqa: RUF012 — as in fsspec
    pseudo_dirs = [""]  # noqa: RUF012
    requests: list = []  # noqa: RUF012
    failing: set = set()  # noqa: RUF012 — names that cannot be read

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("objects://", "memory://"))

    def mv(self, *args: object, **options: object) -> None:
        """Refuse: object stores copy and delete."""
        raise NotImplementedError("no renames")

    mv_file = rename = move = mv

    def cat_file(self, path: str, start=None, end=None, **options: object) -> bytes:
        """Read, and count the request."""
        self.requests.append(("cat", path))
        if path.rpartition("/")[2] in self.failing:
            raise OSError("the network is down")
        return super().cat_file(path, start=start, end=end, **options)


fsspec.register_implementation("objects", ObjectStore, clobber=True)


def upload(folder: Path, remote: RemotePath) -> RemotePath:
    """Copy a local folder to a store."""
    system, base = fsspec.core.url_to_fs(remote.url)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            system.pipe_file(f"{base}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return remote


@pytest.fixture(params=["memory", "objects"])
def bucket(request: pytest.FixtureRequest) -> Iterator[RemotePath]:
    """Give an empty folder of a store."""
    yield from new_bucket(request.param)


@pytest.fixture
def objects() -> Iterator[RemotePath]:
    """Give an empty folder of the store without renames."""
    yield from new_bucket("objects")


def new_bucket(protocol: str) -> Iterator[RemotePath]:
    """Give an empty folder, and remove it."""
    folder = RemotePath(f"{protocol}://{uuid.uuid4().hex}")
    yield folder
    system, path = fsspec.core.url_to_fs(folder.url)
    if system.exists(path):
        system.rm(path, recursive=True)
    ObjectStore.requests.clear()
    ObjectStore.failing.clear()
