"""Local copy of a result folder on an object store.

A run works in the local copy, with its locks, renames and files that grow. New and changed files
are copied to the store while it runs, each by a single request, so that no reader sees a part of a
file. A later run, on this or another machine, copies the files back first and resumes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import SemattnError
from .atomic_files import atomic_path, write_text
from .processes import LockedError, locked
from .remote_path import LocationLike, RemotePath, to_path

SECONDS = 30.0  # between copies to the store during a run
STATE, LOCK, FILES = "state.json", "lock", "files"  # in the folder of a copy
REFUSED = ("hf://", "http://", "https://")  # a commit for each file, and stores that only read
# Files that say which run a folder holds; only the first process may write them.
CLAIMS = (".audit/about.json", ".audit/batch.json", ".audit/search/about.json")
LAST = "audit.json"  # copied last: it says that the tables are complete
_LOCAL_ONLY = re.compile(
    r"(.*/)?(\.processes|\.semattn/lock[^/]*|\.semattn-stage-[^/]*|\.[^/]+\.[0-9]+\.[0-9]+)(/.*)?"
)  # locks, and files that are being written

Stamp = list[int]
State = dict[str, tuple[Stamp, Stamp]]  # stamps of each file on the store and here, when copied


class OtherRunError(SemattnError):
    """Error for a folder on a store that another run uses."""


class MirroredFolder:
    """Result folder on an object store, and its local copy in `folder`.

    Parameters
    ----------
    remote : the folder on the store
    copies : folder of the local copies of all result folders
    """

    def __init__(self, remote: RemotePath, copies: Path) -> None:
        if remote.url.startswith(REFUSED):
            raise SemattnError(
                f"out: expected a store that takes single files, got {remote} — write to a local "
                "folder, and copy that"
            )
        self.remote = remote
        self.home = copies / hashlib.sha256(remote.url.encode()).hexdigest()[:24]
        self.folder = self.home / FILES
        self.error: OtherRunError | None = None
        self._thread_lock = threading.Lock()

    def pull(self) -> None:
        """Copy the files of the store here; files that were not copied to the store yet stay.

        Files that were removed from the store are removed here. If the store holds another run, or
        the run was removed from it, the local copy starts again.
        """
        with self._exclusively():
            state = self._read_state()
            present: dict[str, RemotePath] = {}
            if self.remote.is_dir():
                for file in self.remote.walk_files():
                    present[file.relative_to(self.remote).as_posix()] = file
            if any(self._is_other_run(name, present, state) for name in CLAIMS):
                shutil.rmtree(self.folder, ignore_errors=True)
                state = {}
            for name in state.keys() - present.keys():
                (self.folder / name).unlink(missing_ok=True)
            state = {name: stamps for name, stamps in state.items() if name in present}
            for name, remote_file in present.items():
                local, stamp = self.folder / name, list(remote_file.stamp())
                if name in state and state[name][0] == stamp and local.exists():
                    continue
                local.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(local) as temporary:
                    remote_file.download(temporary)
                state[name] = stamp, _stamp(local)
            self._write_state(state)

    def push(self) -> None:
        """Copy new and changed files to the store, and remove from it those that were removed here.

        Raises
        ------
        SemattnError
            If the store holds another run.
        """
        with self._exclusively():
            state = self._read_state()
            try:
                local = self._local_files()
                for name in sorted(
                    local, key=lambda name: (name == LAST, name not in CLAIMS, name)
                ):
                    self._copy_to_store(name, local[name], state)
                for name in state.keys() - local.keys():
                    (self.remote / name).unlink()
                    del state[name]
            finally:
                self._write_state(state)

    def push_regularly(self, ended: threading.Event) -> None:
        """Copy files to the store until the run ends; interrupt it if the store holds another."""
        while not ended.wait(SECONDS):
            try:
                self.push()
            except OtherRunError as error:
                self.error = error
                _interrupt_main_thread()
                return
            except SemattnError as error:  # a fault of the network: the next copy tries again
                warnings.warn(str(error), stacklevel=2)

    def remove_copy(self) -> None:
        """Remove the local copy, whose files are on the store."""
        shutil.rmtree(self.home, ignore_errors=True)

    def _local_files(self) -> dict[str, Path]:
        files = {
            file.relative_to(self.folder).as_posix(): file
            for file in sorted(self.folder.rglob("*")) if file.is_file()
        }  # fmt: skip
        return {name: file for name, file in files.items() if not _LOCAL_ONLY.fullmatch(name)}

    def _copy_to_store(self, name: str, file: Path, state: State) -> None:
        try:
            stamp = _stamp(file)  # before the content is read, so that a later change is copied
            if name in state and state[name][1] == stamp:
                return
            target = self.remote / name
            if name in CLAIMS and name not in state:
                self._claim(target, file)
            else:
                target.upload(file)
        except FileNotFoundError:
            if file.exists():
                raise
            return  # removed or renamed meanwhile
        state[name] = list(target.stamp()), stamp

    def _claim(self, target: RemotePath, file: Path) -> None:
        """Write a file that says which run this is, unless it is there; then both must agree."""
        content = file.read_bytes()
        if target.can_create():
            is_first = target.create(content)
        else:
            is_first = not target.exists()
            if is_first:
                target.upload(file)
        if not is_first and target.read_bytes() != content:
            raise OtherRunError(
                f"out: expected results of this run, got {self.remote} with those of another that "
                "started meanwhile — choose another folder, or the options of that run"
            )

    def _is_other_run(self, name: str, present: dict[str, RemotePath], state: State) -> bool:
        local = self.folder / name
        if not local.exists():
            return False
        if name not in present:
            return name in state
        return present[name].read_bytes() != local.read_bytes()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the lock of the local copy, which the processes of this machine share."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._thread_lock, _wait_for_lock(self.home / LOCK):
            try:
                yield
            except SemattnError:
                raise
            except OSError as error:
                raise SemattnError(
                    f"out: expected a store that can be read and written, got {self.remote} "
                    f"({error.strerror or error}) — check its name and your access; finished work "
                    f"is kept in {self.folder}"
                ) from error

    def _read_state(self) -> State:
        try:
            files = json.loads((self.home / STATE).read_text(encoding="utf-8"))["files"]
            return {name: (remote, local) for name, (remote, local) in files.items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def _write_state(self, state: State) -> None:
        write_text(
            self.home / STATE, json.dumps({"address": self.remote.url, "files": state}, indent=0)
        )


@contextmanager
def mirrored(out: LocationLike, copies: Path, processes: int = 1) -> Iterator[MirroredFolder]:
    """Copy a result folder from its store, and copy its changes back at the end of the ``with``.

    Changes are also copied after an error or an interruption. The local copy is removed after a
    run of one process without an error.

    Parameters
    ----------
    out : address of the folder, such as ``s3://bucket/run``
    copies : folder of the local copies
    processes : number of processes that write to the folder

    Raises
    ------
    SemattnError
        For a local folder, a store that cannot be written to, and several processes on a store that
        cannot write a file only if it does not exist.
    """
    remote = to_path(out)
    if not isinstance(remote, RemotePath):
        raise SemattnError(f"out: expected an address such as s3://bucket/run, got {out}")
    mirror = MirroredFolder(remote, copies)
    if processes > 1 and not remote.can_create():
        raise SemattnError(
            f"out: expected a store that writes a file only if it does not exist, got {remote}, "
            f"which {processes} processes would overwrite — use one process or a shared folder"
        )
    mirror.pull()
    ended = threading.Event()
    copying = threading.Thread(
        target=mirror.push_regularly, args=(ended,), name="semattn-copying", daemon=True
    )
    copying.start()
    try:
        yield mirror
    except BaseException:
        if mirror.error is not None:
            raise mirror.error from None
        raise
    finally:
        ended.set()
        copying.join()
        if mirror.error is None:
            mirror.push()
    if processes == 1:
        mirror.remove_copy()


@contextmanager
def _wait_for_lock(file: Path) -> Iterator[None]:
    while True:
        lock = locked(file)
        try:
            lock.__enter__()
        except LockedError:
            time.sleep(0.1)
            continue
        break
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _interrupt_main_thread() -> None:
    """Raise KeyboardInterrupt in the main thread, also while it waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:  # Windows
        signal.raise_signal(signal.SIGINT)


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
