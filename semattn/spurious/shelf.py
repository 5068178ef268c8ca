"""What is done of a search, on the disk: a file a batch, whole or not there, nothing pickled."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SemattnError


class Shelf:
    """Numbered batches of arrays in a folder; without one, in a temporary folder of its own.

    Parameters
    ----------
    folder : where, for a run that may be stopped and go on; None for one that may not
    manifest : what a run must have in common with the one that began in the folder

    Raises
    ------
    SemattnError
        For a folder that another run began in.
    """

    def __init__(self, folder: Path | None, manifest: dict[str, Any]) -> None:
        self.temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="semattn-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(manifest, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        about = self.folder / "about.json"
        if about.exists():
            try:
                known = json.loads(about.read_text(encoding="utf-8")).get("digest")
            except (ValueError, AttributeError):
                known = None
            if known != digest:
                raise SemattnError(
                    f"out: expected the beginning of this search, got {self.folder} with that of "
                    "another — remove it, or choose another folder"
                )
            return
        partial = about.with_suffix(".part")
        partial.write_text(json.dumps({"digest": digest, "manifest": manifest}, default=str))
        partial.replace(about)

    def get(self, kind: str, number: int) -> dict[str, np.ndarray] | None:
        """The arrays of a batch, None where it is still to be done."""
        file = self._file(kind, number)
        if not file.exists():
            return None
        with np.load(file, allow_pickle=False) as kept:
            return dict(kept)

    def put(self, kind: str, number: int, arrays: dict[str, np.ndarray]) -> None:
        """Keep the arrays of a batch."""
        file = self._file(kind, number)
        partial = file.with_suffix(".part")
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        partial.replace(file)

    def clear(self) -> None:
        """Remove all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:06d}.npz"
