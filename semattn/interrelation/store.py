"""Analyses on the disk: one ``.npz``, nothing pickled, whole or not there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SemattnError
from ..files import DAMAGE, read_arrays, whole
from ..grid import PatchGrid
from ..manifest import unconfirmed
from .figures import Figures, Skipped
from .tally import Tally

FORMAT = "semattn analysis 2"
Fill = tuple[int, bool, str]


class AnalysisFileError(SemattnError, OSError):
    """A file that is no analysis, or that cannot be written."""


def save(found: Figures, file: Path, **more: Any) -> Path:
    """Write an analysis, under a temporary name first: its path."""
    sums = found.tally.arrays()
    about = {
        "format": FORMAT,
        "sums": len(sums),
        "grid": found.grid.to_list(),
        "skipped": found.skipped,
        "manifest": found.manifest,
        **more,
    }
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"about": np.array(text), **sums}
        with whole(file) as stream:
            np.savez_compressed(stream, **arrays)
    except OSError as error:
        raise _unwritable(file, error) from error
    return file


def check_writable(file: Path) -> None:
    """Find out now, not after an hour, that `file` cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".semattn-", dir=file.parent):
            pass
    except OSError as error:
        raise _unwritable(file, error) from error


def save_partial(found: Figures, file: Path, done: int, inputs: str, fill: Fill) -> None:
    """Write an analysis of the first `done` images, with the digest of their identities.

    Parameters
    ----------
    fill : the same of the images that filled the pool, and whether there were no more
    """
    save(found, file, done=done, inputs=inputs, fill=list(fill))


def load_partial(file: Path, manifest: dict[str, Any]) -> tuple[Figures, int, str, Fill]:
    """Return what `save_partial` wrote, if it is of the same model and options."""
    found, about = load(file)
    if "done" not in about:
        raise not_the_beginning(file, "all of one")
    if found.manifest != manifest:
        differ = [name for name in manifest if manifest[name] != found.manifest.get(name)]
        raise not_the_beginning(file, f"another {', '.join(differ)}")
    if reason := unconfirmed(manifest):
        raise not_the_beginning(file, f"a model that cannot be confirmed ({reason})")
    filled, ended, digest = about.get("fill", (0, False, ""))
    fill = int(filled), bool(ended), str(digest)
    return found, int(about["done"]), str(about.get("inputs")), fill


def not_the_beginning(file: Path, got: str) -> AnalysisFileError:
    """What to raise where a partial file belongs to something else."""
    return AnalysisFileError(
        f"partial: expected the beginning of this analysis, got {file} with {got} — "
        "remove it, or keep the images and options that it was begun with"
    )


def load(file: Path) -> tuple[Figures, dict[str, Any]]:
    """What `save` wrote, and what was said with it.

    Raises
    ------
    AnalysisFileError
        For a file that is missing, damaged, or that something else wrote.
    """
    try:
        arrays = read_arrays(file)
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != FORMAT:
            raise ValueError(f"the format {about['format']!r}")
        if about["sums"] != len(arrays):
            raise ValueError(f"{len(arrays)} of {about['sums']} sums")
        grid = PatchGrid.from_list(about["grid"])
        skipped = tuple(Skipped(*one) for one in about["skipped"])
        return Figures(Tally.of_arrays(arrays), grid, skipped, about["manifest"]), about
    except DAMAGE as error:
        raise AnalysisFileError(
            f"file: expected an analysis, got {file} ({' '.join(str(error).split())}) — "
            "give a file that Analysis.save wrote"
        ) from error


def _unwritable(file: Path, error: OSError) -> AnalysisFileError:
    return AnalysisFileError(
        f"file: expected to write {file}, got {' '.join(str(error).split())} — save it elsewhere"
    )
