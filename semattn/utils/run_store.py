"""Resumable on-disk store for long runs: one file for each batch, written atomically, no pickle.

`RecomputedParts` counts the stored parts that are not used because their images changed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SemattnError
from .atomic_files import (
    DAMAGE,
    atomic_write,
    partial_files,
    read_arrays,
    write_bytes,
    write_if_absent,
    write_text,
)
from .input_identity import name_and_content
from .processes import LockedError, holder_of, is_locked, locked, remove_unlocked
from .provenance import unconfirmed

PROCESSES = ".processes"  # hidden folder with the locks of running processes
TEMPORARY = "semattn-store-"  # prefix of temporary folders
LOCK = ".lock"  # in a temporary folder
_LOCK_NAME = re.compile(r"(.+)-([0-9]+)-of-([0-9]+)")  # name of a lock


class RunStore:
    """Store of batches by name in a folder.

    Parameters
    ----------
    folder : the folder of a run that can be resumed; None for a temporary folder
    manifest : settings of the run, ready for JSON; a run is resumed only if they are equal
    run_name : name of the run for error messages, such as "search"

    Raises
    ------
    SemattnError
        For a folder with results of another run, for a folder with any results if the digest of
        the weights is None, and for a folder that cannot be written to.
    """

    def __init__(self, folder: Path | None, manifest: dict[str, Any], run_name: str) -> None:
        self.temporary = folder is None
        if folder is None:
            # Removed when this process ends, or by a later process if this one is killed.
            remove_unlocked(Path(tempfile.gettempdir()), TEMPORARY, LOCK)
            folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
            self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._lock = ExitStack()
            self._lock.enter_context(locked(folder / LOCK))
        self.folder, self._run_name = folder, run_name
        text = json.dumps(manifest, sort_keys=True, default=str)
        self._manifest_digest = digest = hashlib.sha256(text.encode()).hexdigest()
        about = self.folder / "about.json"
        stored_digest = _read_digest(about)
        reason = unconfirmed(manifest)
        if reason and stored_digest is not None and self._has_results():
            raise SemattnError(
                f"out: expected an empty folder, got {self.folder} with results of an earlier "
                f"{run_name}, whose model cannot be confirmed ({reason}) — remove it, or choose "
                "another folder"
            )
        if stored_digest == digest:
            return
        if stored_digest is not None and (self._has_results() or self._count_running()):
            raise self._other_run_error()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.store_row("about", {"digest": digest, "manifest": manifest})
        except OSError as error:
            raise SemattnError(
                f"out: expected a folder to write to, got {self.folder} ({error.strerror}) — "
                "choose another folder"
            ) from error

    @contextmanager
    def running(
        self, process: tuple[int, int] = (0, 1), task: str = "run", also: Sequence[Path] = ()
    ) -> Iterator[None]:
        """Lock one part of the run against other processes until the ``with`` ends.

        Partial files of killed processes are removed.

        Parameters
        ----------
        process : index of this process, from 0, and the number of processes that share the run
        task : name of the run, for a folder with several runs
        also : other folders that the run writes to

        Raises
        ------
        LockedError
            If another process runs the same part, or a process with another count is running.
        """
        place, count = process
        locks = self.folder / PROCESSES
        locks.mkdir(exist_ok=True)
        with locked(locks / f"{task}-{place}-of-{count}"):
            for file in locks.iterdir():
                match = _LOCK_NAME.fullmatch(file.name)
                if match and match[1] == task and int(match[3]) != count:
                    self._check_process_count(file, int(match[3]), process)
            if _read_digest(self.folder / "about.json") != self._manifest_digest:
                raise self._other_run_error()
            self._remove_partial(also)
            yield

    def _check_process_count(self, file: Path, count: int, process: tuple[int, int]) -> None:
        """Raise LockedError if the process of a lock file, one of `count`, is running."""
        if holder := holder_of(file):
            raise LockedError(
                f"process: expected one of {count}, as {holder} in {self.folder} is, got "
                f"{process[0]} of {process[1]} — wait for it, or choose another folder"
            )

    def _remove_partial(self, also: Sequence[Path]) -> None:
        stale_files = [file for folder in (self.folder, *also) for file in partial_files(folder)]
        # Listed before counting: a process that starts later has no file in the list.
        if stale_files and self._count_running() <= 1:
            for file in stale_files:
                with suppress(OSError):
                    file.unlink()

    def _count_running(self) -> int:
        """Return the number of processes that run in the folder, including this one."""
        locks = self.folder / PROCESSES
        files = list(locks.iterdir()) if locks.is_dir() else []
        return sum(map(is_locked, files))

    def _other_run_error(self) -> SemattnError:
        return SemattnError(
            f"out: expected results of this {self._run_name}, got {self.folder} with results of "
            "another — remove it, or choose another folder"
        )

    def read_row(self, name: str) -> dict[str, Any] | None:
        """Return a stored JSON object; None if it does not exist yet."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            return None
        try:
            return _parse_row(file.read_text(encoding="utf-8"))
        except DAMAGE as error:
            raise _damaged_error(file, error) from error

    def store_row(self, name: str, row: dict[str, Any]) -> None:
        """Store a JSON object."""
        write_text(self.folder / f"{name}.json", json.dumps(row, default=str))

    def store_row_if_absent(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        """Store a JSON object unless one exists, and return the stored one."""
        file = self.folder / f"{name}.json"
        try:
            return _parse_row(write_if_absent(file, json.dumps(row, default=str)))
        except OSError as error:
            if file.exists():
                raise _damaged_error(file, error) from error
            raise SemattnError(
                f"out: expected a file that can be written, got {file} ({error.strerror or error}) "
                "— choose a folder that can be written to"
            ) from error
        except DAMAGE as error:
            raise _damaged_error(file, error) from error

    def has_arrays(self, name: str) -> bool:
        """Return whether the arrays of a batch are stored."""
        return (self.folder / f"{name}.npz").exists()

    def read_arrays(
        self, name: str, only: Sequence[str] | None = None
    ) -> dict[str, np.ndarray] | None:
        """Return the arrays of a batch, all or those named in `only`; None if it is not stored."""
        file = self.folder / f"{name}.npz"
        try:
            return read_arrays(file, only)
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            raise _damaged_error(file, error) from error

    def store_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Store the arrays of a batch."""
        with atomic_write(self.folder / f"{name}.npz") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def store_file(self, name: str, content: bytes) -> None:
        """Store the arrays of a batch, given as the content of their file."""
        write_bytes(self.folder / f"{name}.npz", content)

    def numbered(self, prefix: str) -> dict[int, str]:
        """Return the names of batches of the form prefix + number, by number, ascending."""
        stems = [file.stem for file in self.folder.glob(f"{prefix}*.npz")]
        numbers = {
            int(stem[len(prefix) :]): stem for stem in stems if stem[len(prefix) :].isdigit()
        }
        return dict(sorted(numbers.items()))

    def remove(self, name: str) -> None:
        """Remove the arrays and the JSON object of a batch, if they exist."""
        for ending in ("npz", "json"):
            (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    def _has_results(self) -> bool:
        """Return whether a batch is stored; hidden files are partial and do not count."""
        names = (file.name for file in self.folder.iterdir())
        return any(not name.startswith((".", "about.")) for name in names)

    def clear(self) -> None:
        """Remove the folder with all batches."""
        if self.temporary:
            self._lock.close()
            self._remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_digest(about: Path) -> str | None:
    """Return the digest of the stored run; None without a run, "" if the file is damaged."""
    if not about.exists():
        return None
    try:
        return str(json.loads(about.read_text(encoding="utf-8"))["digest"])
    except DAMAGE:
        return ""


def _parse_row(text: str) -> dict[str, Any]:
    row = json.loads(text)
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    return row


def _damaged_error(file: Path, error: Exception) -> SemattnError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return SemattnError(
        f"out: expected stored results of the run, got {file}, which is damaged "
        f"({reason[:200]}) — remove this file to compute it again"
    )


class RecomputedParts:
    """Counter of the parts of a run that were computed again, with the reasons.

    Parameters
    ----------
    part : singular and plural of the word for a part: ("unit", "units")
    stored : number of parts that an earlier run stored
    """

    def __init__(self, part: tuple[str, str], stored: int) -> None:
        self.part, self.stored, self.parts = part, stored, 0
        self._before: dict[str, int] = {}
        self._after: dict[str, int] = {}

    def drop(self, identities: Iterable[str]) -> None:
        """Count a stored part that is not used, with the identities of its images."""
        self.parts += 1
        self._before.update(_entries(identities))

    def again(self, identities: Iterable[str]) -> None:
        """Add the identities of images that are computed now."""
        if self.parts:
            self._after.update(_entries(identities))

    def note(self, names: Collection[str], counts_new: bool, alone: bool = True) -> str:
        """Return the note; "" if all stored parts are used.

        Parameters
        ----------
        names : names of all images of the current run
        counts_new : whether the earlier run covered all images, so that other images are new
        alone : whether one process computes all parts; otherwise images move between processes
        """
        if not self.parts:
            return ""
        word = self.part[0] if self.stored == 1 else self.part[1]
        start = f"{self.parts} of {self.stored} kept {word} " + (
            "was not used" if self.parts == 1 else "were not used"
        )
        if not alone:
            return f"{start}, because the images in the data set changed"
        present = set(names)
        changed = sum(
            self._after[name] != old for name, old in self._before.items() if name in self._after
        )
        added = sum(name not in self._before for name in self._after) if counts_new else 0
        gone = sum(name not in present for name in self._before)
        kinds = (
            (changed, "image changed", "images changed"),
            (added, "is new", "are new"), (gone, "is gone", "are gone"),
        )  # fmt: skip
        reasons = [f"{count} {words[count > 1]}" for count, *words in kinds if count]
        listed = ", ".join(reasons[:-1]) + " and " * (len(reasons) > 1) + "".join(reasons[-1:])
        return f"{start}, because {listed or 'the order of the images changed'}"


def _entries(lines: Iterable[str]) -> dict[str, int]:
    """Return a hash of label and content of each image, by name."""
    entries = {}
    for identity in lines:
        try:
            name, content = name_and_content(identity)
        except (ValueError, TypeError):
            continue
        entries[name] = hash(content)
    return entries
