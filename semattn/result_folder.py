"""Folders that semattn writes results to, and which files in them are its own.

A marker file in each folder lists the files that semattn wrote there and from which input. Only
listed files are replaced, an input never; listings of images leave them out.
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

from .errors import SemattnError, plain
from .files import write_text
from .identity import content_digest
from .locks import locked, remove_unlocked
from .version import __version__

FolderLike: TypeAlias = "str | os.PathLike[str] | ResultFolder"
RECORDS = ".semattn"  # hidden folder inside each folder of results
MARKER = "files.json"
LOCK = "lock"
STAGE = ".semattn-stage-"  # prefix of the temporary folder in which files are written
STAGE_LOCK = "lock"


class OutputError(SemattnError, OSError):
    """A folder that results cannot be written to, or a file in it that is not semattn's."""


@dataclass(frozen=True)
class ResultFolder:
    """One folder of results of one command.

    Parameters
    ----------
    path : the folder; it is made with its parents where it does not exist
    command : the command that writes, such as "explain"
    inputs : files and folders that the results are computed from; none of them is ever replaced
    source : text that identifies the inputs; their absolute paths if left out
    force : replace files that semattn did not write
    stdin_sha256 : SHA-256 of the bytes of standard input, where they are an input
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
            {"path": plain(_resolved(file).as_posix()), "sha256": content_digest(file)}
            for file in self.inputs
            if file.is_file()
        ]
        return {"inputs": rows} if rows else {}

    def check(self, names: Iterable[str] = ()) -> None:
        """Raise OutputError unless files of these names can be written; folders end with "/".

        Raises
        ------
        OutputError
            For a path that is no writable folder, or that holds one of the files as an input or as
            a file that semattn did not write (unless `force`).
        """
        check_folder(self.path)
        own = read_marker(self.path)
        for name in names:
            file = self.path / name
            if not os.path.lexists(file):
                continue
            if any(_same(one, file) for one in self.inputs):
                raise OutputError(
                    f"out: expected a folder without the input, got {self.path}, where {name} is "
                    "the input itself — choose another folder"
                )
            if file.is_dir() != name.endswith("/"):
                kinds = ("folder", "file") if name.endswith("/") else ("file", "folder")
                raise OutputError(
                    f"out: expected {name} to be a {kinds[0]}, got a {kinds[1]} in {self.path} — "
                    "choose another folder"
                )
            if name not in own and not self.force:
                raise OutputError(
                    f"out: expected a folder without files of others, got {self.path}, whose "
                    f"{name} was not written by semattn — choose another folder, or replace it "
                    "with --force"
                )

    def begin(self, names: Iterable[str]) -> None:
        """Check the folder, make it, and mark these names as semattn's, before a long run."""
        wanted = tuple(names)
        self.check(wanted)
        entries = self._entries(wanted)
        try:
            if not self.path.exists():
                self._make(entries)
            self._mark(read_marker(self.path) | entries)
        except OSError as error:
            raise OutputError(
                f"out: expected a folder to write to, got {self.path} ({error.strerror}) — "
                "choose another"
            ) from error

    @contextmanager
    def running(self, names: Iterable[str], process: str = "") -> Iterator[None]:
        """Begin a long run and keep other processes out of the folder until it ends.

        Where the folder is new and the run fails before it has kept anything, the folder goes.

        Parameters
        ----------
        names : files that the run writes
        process : name of the part of the run, for runs whose parts share a folder

        Raises
        ------
        OutputError
            As `check` does.
        LockedError
            While another process runs in the folder under the same `process`.
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
        """Give a temporary folder whose files take their places at the end, or never.

        It lies on the same disk, so that they take their places by renaming: all at once where the
        folder is new, else file by file. Files that the same command wrote there before and does
        not write now are removed; all others stay.

        Raises
        ------
        OutputError
            As `check` does; nothing is left behind.
        """
        self.check()
        parent = standing(self.path)
        remove_stale(parent)
        own = Path(tempfile.mkdtemp(prefix=STAGE, dir=parent))
        try:
            with locked(own / STAGE_LOCK):
                stage = own / "files"  # mkdtemp makes its folder private; this one is as any other
                stage.mkdir()
                yield stage
                self._place(stage)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _make(self, entries: dict[str, dict[str, str]]) -> None:
        """Make the folder with its marker in it, so that no process sees it without one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = Path(tempfile.mkdtemp(prefix=STAGE, dir=self.path.parent))
        try:
            folder = own / "folder"
            folder.mkdir()
            _write_marker(folder, entries)
            with suppress(OSError):  # another process was first
                folder.rename(self.path)
            if not self.path.is_dir():
                self.path.mkdir()
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _place(self, stage: Path) -> None:
        names = sorted(file.name for file in stage.iterdir())
        self.check(names)
        entries = self._entries(names)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            _write_marker(stage, entries)
            stage.replace(self.path)
            return
        before = read_marker(self.path)
        self._mark(before | entries)  # first, so that a kill leaves no file without its entry
        for name in names:
            (stage / name).replace(self.path / name)
        stale = [
            name for name, entry in before.items()
            if name not in entries and entry.get("command") == self.command
        ]  # fmt: skip
        for name in stale:
            (self.path / name).unlink(missing_ok=True)
        if stale:
            kept = {name: entry for name, entry in before.items() if name not in stale}
            self._mark(kept | entries)

    def _entries(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        entry = {"command": self.command, "source": self.identity}
        return dict.fromkeys(names, entry)

    def _mark(self, entries: dict[str, dict[str, str]]) -> None:
        _write_marker(self.path, entries)


def source_of(inputs: Iterable[Path]) -> str:
    """Return the text that identifies inputs: their absolute paths, separated by commas."""
    return ",".join(plain(_resolved(one).as_posix()) for one in inputs)


def default_folder(name: str, source: str) -> Path:
    """Return the folder for results of a source, in the current folder.

    It is called `name`; where that exists and holds anything but results of the same source, a
    short hash of the source follows the name.

    Parameters
    ----------
    name : such as "semattn-cat"
    source : text that identifies the inputs, as of `source_of`
    """
    folder = Path(name)
    if not os.path.lexists(folder):
        return folder
    entries = read_marker(folder) if folder.is_dir() else {}
    if entries and all(entry.get("source") == source for entry in entries.values()):
        return folder
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return folder.with_name(f"{name}-{digest[:8]}")


def read_marker(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the files that semattn wrote to a folder: command and source of each, by name."""
    try:
        content = json.loads((folder / RECORDS / MARKER).read_text(encoding="utf-8"))
        files = content["files"]
        return {str(name): dict(entry) for name, entry in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def check_folder(folder: Path) -> None:
    """Raise OutputError unless `folder` is one that can be written to, or can be made."""
    try:
        folder.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a link in a circle, a name that cannot be
        raise OutputError(
            f"out: expected a folder, got {str(folder)[:200]} "
            f"({getattr(error, 'strerror', None) or error}) — choose another name"
        ) from error
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"out: expected a folder, got the file {folder} — choose another name")
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"out: expected a folder, got {folder}, a link that leads nowhere")
    if not os.access(standing(folder), os.W_OK | os.X_OK):
        raise OutputError(f"out: expected a folder to write to, got {folder} — it is read-only")


def standing(folder: Path) -> Path:
    """Return the nearest folder above (or at) `folder` that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def remove_stale(parent: Path) -> None:
    """Remove stages that processes which no longer run left in a folder."""
    remove_unlocked(parent, STAGE, STAGE_LOCK)


def _write_marker(folder: Path, entries: dict[str, dict[str, str]]) -> None:
    content = {"semattn": __version__, "files": dict(sorted(entries.items()))}
    (folder / RECORDS).mkdir(exist_ok=True)
    text = json.dumps(content, indent=1, ensure_ascii=False)
    write_text(folder / RECORDS / MARKER, text + "\n")


def _same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link in a circle, a name that cannot be
        return path.absolute()
