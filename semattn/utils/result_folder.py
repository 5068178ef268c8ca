"""Result folders, with a record of the files that semattn wrote.

A marker file in each folder lists the files that semattn wrote, with their inputs. Only listed
files are replaced, and never an input. Listings of images leave them out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import SemattnError, plain
from ..version import __version__
from .atomic_files import write_text
from .input_identity import content_digest
from .processes import locked, remove_unlocked
from .remote_path import Location, check_local

FolderLike: TypeAlias = "str | os.PathLike[str] | ResultFolder"
RECORDS = ".semattn"  # hidden folder inside each folder of results
MARKER = "files.json"
LOCK = "lock"
STAGE = ".semattn-stage-"  # prefix of the temporary folder in which files are written
STAGE_LOCK = "lock"


class OutputError(SemattnError, OSError):
    """Error for a folder that is not writable, or for a file that semattn did not write."""


@dataclass(frozen=True)
class ResultFolder:
    """Folder with the results of one command.

    Parameters
    ----------
    path : the folder; it is created with its parents if it does not exist
    command : name of the command, such as "explain"
    inputs : files and folders that the results are computed from; they are never replaced
    source : text that identifies the inputs; their absolute paths if left out
    force : replace files that semattn did not write
    stdin_sha256 : SHA-256 of the bytes of standard input, if it is an input
    """

    path: Path
    command: str = ""
    inputs: tuple[Path, ...] = ()
    source: str = ""
    force: bool = False
    stdin_sha256: str = ""

    @classmethod
    def of(cls, folder: FolderLike) -> ResultFolder:
        """Return a `ResultFolder`; a path alone has no command and no inputs."""
        return folder if isinstance(folder, ResultFolder) else cls(Path(folder))

    @property
    def identity(self) -> str:
        """Text that identifies the inputs."""
        return self.source or source_of(self.inputs)

    def inputs_entry(self) -> dict[str, Any]:
        """Return path and SHA-256 of the inputs that are files, ready for JSON.

        The path of standard input is "-".
        """
        rows = [{"path": "-", "sha256": self.stdin_sha256}] if self.stdin_sha256 else []
        rows += [
            {"path": plain(_resolve(file).as_posix()), "sha256": content_digest(file)}
            for file in self.inputs
            if file.is_file()
        ]
        return {"inputs": rows} if rows else {}

    def check(self, names: Iterable[str] = ()) -> None:
        """Raise OutputError unless files with these names can be written; folders end with "/".

        Raises
        ------
        OutputError
            If the path is not a writable folder, or if one of the files is an input or was not
            written by semattn (unless `force`).
        """
        check_folder(self.path)
        entries = read_marker(self.path)
        for name in names:
            file = self.path / name
            if not os.path.lexists(file):
                continue
            if any(_is_same_file(input_path, file) for input_path in self.inputs):
                raise OutputError(
                    f"out: expected a folder in which no result replaces an input, got "
                    f"{self.path}, where {name} is the input itself — choose another folder"
                )
            if file.is_dir() != name.endswith("/"):
                kinds = ("folder", "file") if name.endswith("/") else ("file", "folder")
                raise OutputError(
                    f"out: expected {name} to be a {kinds[0]}, got a {kinds[1]} in {self.path} — "
                    "choose another folder"
                )
            if name not in entries and not self.force:
                raise OutputError(
                    f"out: expected a folder with files of semattn only, got {self.path}, whose "
                    f"{name} was not written by semattn — choose another folder, or replace it "
                    "with --force"
                )

    def begin(self, names: Iterable[str]) -> None:
        """Check and create the folder before a long run, and add the names to its marker file."""
        file_names = tuple(names)
        self.check(file_names)
        entries = self._marker_entries(file_names)
        try:
            if not self.path.exists():
                self._create(entries)
            self._update_marker(read_marker(self.path) | entries)
        except OSError as error:
            raise OutputError(
                f"out: expected a folder to write to, got {self.path} ({error.strerror}) — "
                "choose another folder"
            ) from error

    @contextmanager
    def running(self, names: Iterable[str], process: str = "") -> Iterator[None]:
        """Lock the folder for a long run until the ``with`` ends.

        A new folder is removed if the run fails before it stores a result.

        Parameters
        ----------
        names : files that the run writes
        process : name of the part of the run, if several processes share the folder

        Raises
        ------
        OutputError
            See `check`.
        LockedError
            If another process runs in the folder with the same `process`.
        """
        is_new = not self.path.exists()
        self.begin(names)
        try:
            with locked(self.path / RECORDS / f"{LOCK}{process}"):
                yield
        except BaseException:
            if is_new and [file.name for file in self.path.iterdir()] == [RECORDS]:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Create a temporary folder whose files are moved to the result folder on success.

        It is on the same disk, so that files are moved by renaming: a new folder as a whole, an
        existing one file by file. Files that an earlier run of the same command wrote and this one
        did not are removed; other files are kept. On an error, no file is changed.

        Raises
        ------
        OutputError
            See `check`.
        """
        self.check()
        parent = standing(self.path)
        remove_stale(parent)
        temporary = Path(tempfile.mkdtemp(prefix=STAGE, dir=parent))
        try:
            with locked(temporary / STAGE_LOCK):
                stage = temporary / "files"  # a subfolder, since the folder of mkdtemp is private
                stage.mkdir()
                yield stage
                self._move_files(stage)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _create(self, entries: dict[str, dict[str, str]]) -> None:
        """Create the folder together with its marker, so that no process sees it without one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=STAGE, dir=self.path.parent))
        try:
            folder = temporary / "folder"
            folder.mkdir()
            _write_marker(folder, entries)
            with suppress(OSError):  # another process was first
                folder.rename(self.path)
            if not self.path.is_dir():
                self.path.mkdir()
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _move_files(self, stage: Path) -> None:
        names = sorted(file.name for file in stage.iterdir())
        self.check(names)
        entries = self._marker_entries(names)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            _write_marker(stage, entries)
            stage.replace(self.path)
            return
        before = read_marker(self.path)
        self._update_marker(before | entries)  # first, so that a kill leaves no file without entry
        for name in names:
            (stage / name).replace(self.path / name)
        stale = [
            name for name, entry in before.items()
            if name not in entries and entry.get("command") == self.command
        ]  # fmt: skip
        for name in stale:
            (self.path / name).unlink(missing_ok=True)
        if stale:
            remaining = {name: entry for name, entry in before.items() if name not in stale}
            self._update_marker(remaining | entries)

    def _marker_entries(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        entry = {"command": self.command, "source": self.identity}
        return dict.fromkeys(names, entry)

    def _update_marker(self, entries: dict[str, dict[str, str]]) -> None:
        _write_marker(self.path, entries)


def source_of(inputs: Iterable[Path]) -> str:
    """Return a text that identifies inputs: their absolute paths, separated by commas."""
    return ",".join(plain(_resolve(path).as_posix()) for path in inputs)


def default_folder(name: str, source: str) -> Path:
    """Return the default result folder of a source, in the current folder.

    Its name is `name`. If that folder exists with other content than results of the same source, a
    short hash of the source is appended.

    Parameters
    ----------
    name : such as "semattn-cat"
    source : text that identifies the inputs, see `source_of`
    """
    folder = Path(name)
    if not os.path.lexists(folder):
        return folder
    entries = read_marker(folder) if folder.is_dir() else {}
    if entries and all(entry.get("source") == source for entry in entries.values()):
        return folder
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return folder.with_name(f"{name}-{digest[:8]}")


def read_marker(folder: Location) -> dict[str, dict[str, Any]]:
    """Return command and source of the files that semattn wrote to a folder, by file name."""
    try:
        content = json.loads((folder / RECORDS / MARKER).read_text(encoding="utf-8"))
        files = content["files"]
        return {str(name): dict(entry) for name, entry in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def check_folder(folder: Path) -> None:
    """Raise OutputError unless `folder` is local, and writable or can be created."""
    try:
        check_local(folder)
    except SemattnError as error:
        raise OutputError(str(error)) from error
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a circular link, an invalid name
        raise OutputError(
            f"out: expected a folder, got {str(folder)[:200]} "
            f"({getattr(error, 'strerror', None) or error}) — choose another name"
        ) from error
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"out: expected a folder, got the file {folder} — choose another name")
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"out: expected a folder, got {folder}, a broken link — remove it")
    if not os.access(standing(folder), os.W_OK | os.X_OK):
        raise OutputError(
            f"out: expected a folder to write to, got {folder}, which is read-only — choose "
            "another folder"
        )


def standing(folder: Path) -> Path:
    """Return `folder`, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def remove_stale(parent: Path) -> None:
    """Remove temporary folders of processes that have ended."""
    remove_unlocked(parent, STAGE, STAGE_LOCK)


def _write_marker(folder: Path, entries: dict[str, dict[str, str]]) -> None:
    content = {"semattn": __version__, "files": dict(sorted(entries.items()))}
    (folder / RECORDS).mkdir(exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_text(folder / RECORDS / MARKER, text + "\n")


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return False


def _resolve(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circular link, an invalid name
        return path.absolute()
