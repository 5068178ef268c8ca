"""What is done of a long run, on the disk: a file a batch, whole or not there, nothing pickled."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import SemattnError
from .files import DAMAGE, claim, read_arrays, whole, write_text
from .manifest import unconfirmed


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
        self.folder = Path(tempfile.mkdtemp(prefix="semattn-")) if folder is None else folder
        text = json.dumps(manifest, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
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
        if known is not None and self._begun():
            raise SemattnError(
                f"out: expected the beginning of this {what}, got {self.folder} with that of "
                "another — remove it, or choose another folder"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.keep_row("about", {"digest": digest, "manifest": manifest})
        except OSError as error:
            raise SemattnError(
                f"out: expected a folder to write to, got {self.folder} ({error.strerror}) — "
                "choose another"
            ) from error

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
        if not self.has_arrays(name):
            return None
        file = self.folder / f"{name}.npz"
        try:
            return read_arrays(file, only)
        except DAMAGE as error:
            raise _damaged(file, error) from error

    def keep_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of a batch."""
        with whole(self.folder / f"{name}.npz") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]

    def _begun(self) -> bool:
        """Whether a batch is kept; hidden files are what was cut short."""
        names = (one.name for one in self.folder.iterdir())
        return any(not name.startswith((".", "about.")) for name in names)

    def clear(self) -> None:
        """Remove all of it."""
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
