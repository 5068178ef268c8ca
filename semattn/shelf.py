"""What is done of a long run, on the disk: a file a batch, whole or not there, nothing pickled."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .errors import SemattnError
from .files import DAMAGE, claim, partial_files, read_arrays, whole, write_text
from .locks import LockedError, holder_of, is_locked, locked, remove_unlocked
from .manifest import unconfirmed

PROCESSES = ".processes"  # hidden folder of the locks of the processes at work
TEMPORARY = "semattn-shelf-"  # prefix of temporary folders
LOCK = ".lock"  # in a temporary folder
_PART = re.compile(r"(.+)-([0-9]+)-of-([0-9]+)")  # name of a lock


class Shelf:
    """Batches by name in a folder; without one, in a temporary folder of its own.

    Parameters
    ----------
    folder : where, for a run that may be stopped and go on; None for one that may not
    manifest : what a run must have in common with the one that began in the folder, JSON
    what : the run, in an error: "search"

    Raises
    ------
    SemattnError
        For a folder that another run began in, for one that any run began in where the digest of
        the weights is None, and for one that cannot be written to.
    """

    def __init__(self, folder: Path | None, manifest: dict[str, Any], what: str) -> None:
        self.temporary = folder is None
        if folder is None:
            # Removed at the latest when this process ends; after a kill, by the next one.
            remove_unlocked(Path(tempfile.gettempdir()), TEMPORARY, LOCK)
            folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._lock = ExitStack()
            self._lock.enter_context(locked(folder / LOCK))
        self.folder, self._what = folder, what
        text = json.dumps(manifest, sort_keys=True, default=str)
        self._manifest_digest = digest = hashlib.sha256(text.encode()).hexdigest()
        about = self.folder / "about.json"
        known = _digest(about)
        reason = unconfirmed(manifest)
        if reason and known is not None and self._begun():
            raise SemattnError(
                f"out: expected an empty folder, got {self.folder} with the beginning of a "
                f"{what}, whose model cannot be confirmed ({reason}) — remove it, or choose "
                "another folder"
            )
        if known == digest:
            return
        if known is not None and (self._begun() or self._at_work()):
            raise self._of_another()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.keep_row("about", {"digest": digest, "manifest": manifest})
        except OSError as error:
            raise SemattnError(
                f"out: expected a folder to write to, got {self.folder} ({error.strerror}) — "
                "choose another"
            ) from error

    @contextmanager
    def running(
        self, process: tuple[int, int] = (0, 1), task: str = "run", also: Sequence[Path] = ()
    ) -> Iterator[None]:
        """Keep other processes from doing the same part of a run until it ends.

        Half-written files of processes that were killed are removed.

        Parameters
        ----------
        process : the place of this process, from 0, and how many share the run
        task : name of the run, for a folder with several
        also : other folders that the run writes to

        Raises
        ------
        LockedError
            While another process does this part, or a process of another count shares the run.
        """
        place, count = process
        locks = self.folder / PROCESSES
        locks.mkdir(exist_ok=True)
        with locked(locks / f"{task}-{place}-of-{count}"):
            for file in locks.iterdir():
                part = _PART.fullmatch(file.name)
                if part and part[1] == task and int(part[3]) != count:
                    self._refuse(file, int(part[3]), process)
            if _digest(self.folder / "about.json") != self._manifest_digest:
                raise self._of_another()
            self._remove_partial(also)
            yield

    def _refuse(self, file: Path, count: int, process: tuple[int, int]) -> None:
        """Raise LockedError where a process that shares a run with `count` in all is at work."""
        if holder := holder_of(file):
            raise LockedError(
                f"process: expected one of {count}, as {holder} in {self.folder} is, got "
                f"{process[0]} of {process[1]} — wait for it, or choose another folder"
            )

    def _remove_partial(self, also: Sequence[Path]) -> None:
        stale = [file for folder in (self.folder, *also) for file in partial_files(folder)]
        # Listed first: a process that started since then has none in the list.
        if stale and self._at_work() <= 1:
            for file in stale:
                with suppress(OSError):
                    file.unlink()

    def _at_work(self) -> int:
        """Number of processes that run in the folder, this one included."""
        locks = self.folder / PROCESSES
        files = list(locks.iterdir()) if locks.is_dir() else []
        return sum(map(is_locked, files))

    def _of_another(self) -> SemattnError:
        return SemattnError(
            f"out: expected the beginning of this {self._what}, got {self.folder} with that of "
            "another — remove it, or choose another folder"
        )

    def row(self, name: str) -> dict[str, Any] | None:
        """A row of JSON, None where it is still to be done."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            return None
        try:
            return _row(file.read_text(encoding="utf-8"))
        except DAMAGE as error:
            raise _damaged(file, error) from error

    def keep_row(self, name: str, row: dict[str, Any]) -> None:
        """Keep a row of JSON."""
        write_text(self.folder / f"{name}.json", json.dumps(row, default=str))

    def claim_row(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        """Keep a row unless one is there: the one that stands, whichever process was first."""
        file = self.folder / f"{name}.json"
        try:
            return _row(claim(file, json.dumps(row, default=str)))
        except OSError as error:
            if file.exists():
                raise _damaged(file, error) from error
            raise SemattnError(
                f"out: expected to write {file}, got {error.strerror or error} — choose a folder "
                "that can be written to"
            ) from error
        except DAMAGE as error:
            raise _damaged(file, error) from error

    def has_arrays(self, name: str) -> bool:
        """Whether a batch is done."""
        return (self.folder / f"{name}.npz").exists()

    def arrays(self, name: str, only: Sequence[str] | None = None) -> dict[str, np.ndarray] | None:
        """The arrays of a batch, or `only` some, None where it is still to be done."""
        file = self.folder / f"{name}.npz"
        try:
            return read_arrays(file, only)
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            raise _damaged(file, error) from error

    def keep_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of a batch."""
        with whole(self.folder / f"{name}.npz") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def numbered(self, prefix: str) -> dict[int, str]:
        """Return the names of batches that are a prefix and a number, by number, in order."""
        stems = [file.stem for file in self.folder.glob(f"{prefix}*.npz")]
        numbers = {
            int(stem[len(prefix) :]): stem for stem in stems if stem[len(prefix) :].isdigit()
        }
        return dict(sorted(numbers.items()))

    def remove(self, name: str) -> None:
        """Remove the arrays and the row of a batch, where they are there."""
        for ending in ("npz", "json"):
            (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    def _begun(self) -> bool:
        """Whether a batch is kept; hidden files are what was cut short."""
        names = (one.name for one in self.folder.iterdir())
        return any(not name.startswith((".", "about.")) for name in names)

    def clear(self) -> None:
        """Remove all of it."""
        if self.temporary:
            self._lock.close()
            self._remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def _digest(about: Path) -> str | None:
    """Of the run that began here: None for none, "" where nobody can tell."""
    if not about.exists():
        return None
    try:
        return str(json.loads(about.read_text(encoding="utf-8"))["digest"])
    except DAMAGE:
        return ""


def _row(text: str) -> dict[str, Any]:
    made = json.loads(text)
    if not isinstance(made, dict):
        raise ValueError(f"no object but {type(made).__name__}")
    return made


def _damaged(file: Path, error: Exception) -> SemattnError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return SemattnError(
        f"out: expected what was kept of the run, got {file}, which is damaged ({reason[:200]}) — "
        "remove that file, and it is made anew"
    )
