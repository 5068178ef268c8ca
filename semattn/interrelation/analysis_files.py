"""Files of analyses: one ``.npz`` without pickle, written atomically."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..data.loading import Skipped
from ..errors import SemattnError
from ..grid import PatchGrid
from ..utils.atomic_files import DAMAGE, atomic_write, read_arrays
from ..utils.provenance import unconfirmed
from .accumulate import Tally
from .estimates import AnalysisResult

FORMAT = "semattn analysis 2"
Fill = tuple[int, bool, str]


class AnalysisFileError(SemattnError, OSError):
    """Error for a file that is not an analysis, or that cannot be written."""


def save_analysis(analysis: AnalysisResult, file: Path, **extra: Any) -> Path:
    """Write an analysis atomically and return its path."""
    sums = analysis.tally.arrays()
    about = {
        "format": FORMAT,
        "sums": len(sums),
        "grid": analysis.grid.to_list(),
        "skipped": analysis.skipped,
        "manifest": analysis.manifest,
        **extra,
    }
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"about": np.array(text), **sums}
        with atomic_write(file) as stream:
            np.savez_compressed(stream, **arrays)
    except OSError as error:
        raise _unwritable_error(file, error) from error
    return file


def check_writable(file: Path) -> None:
    """Raise AnalysisFileError before the analysis starts if `file` cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(prefix=".semattn-", dir=file.parent):
            pass
    except OSError as error:
        raise _unwritable_error(file, error) from error


def save_resume_file(
    analysis: AnalysisResult, file: Path, done: int, inputs: str, fill: Fill
) -> None:
    """Write an analysis of the first `done` images, with the digest `inputs` of their identities.

    Parameters
    ----------
    fill : number of images read to fill the pool, whether they were all images, and their digest
    """
    save_analysis(analysis, file, done=done, inputs=inputs, fill=list(fill))


def load_resume_file(file: Path, manifest: dict[str, Any]) -> tuple[AnalysisResult, int, str, Fill]:
    """Load a file of `save_resume_file`; raise if it is of another model or other options."""
    analysis, about = read_analysis_file(file)
    if "done" not in about:
        raise mismatch_error(file, "a complete analysis")
    if analysis.manifest != manifest:
        different = [name for name in manifest if manifest[name] != analysis.manifest.get(name)]
        raise mismatch_error(file, f"another {', '.join(different)}")
    if reason := unconfirmed(manifest):
        raise mismatch_error(file, f"a model that cannot be confirmed ({reason})")
    filled, ended, digest = about.get("fill", (0, False, ""))
    fill = int(filled), bool(ended), str(digest)
    return analysis, int(about["done"]), str(about.get("inputs")), fill


def mismatch_error(file: Path, got: str) -> AnalysisFileError:
    """Return the error for a resume file of a different analysis."""
    return AnalysisFileError(
        f"resume_file: expected the beginning of this analysis, got {file} with {got} — "
        "remove it, or use the images and options of the interrupted run"
    )


def read_analysis_file(file: Path) -> tuple[AnalysisResult, dict[str, Any]]:
    """Load a file of `save_analysis`: the analysis, and the dictionary stored with it.

    Raises
    ------
    AnalysisFileError
        If the file is missing, damaged, or not an analysis.
    """
    try:
        arrays = read_arrays(file)
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != FORMAT:
            raise ValueError(f"the format {about['format']!r}")
        if about["sums"] != len(arrays):
            raise ValueError(f"{len(arrays)} of {about['sums']} sums")
        grid = PatchGrid.from_list(about["grid"])
        skipped = tuple(Skipped(*entry) for entry in about["skipped"])
        return AnalysisResult(Tally.of_arrays(arrays), grid, skipped, about["manifest"]), about
    except DAMAGE as error:
        raise AnalysisFileError(
            f"file: expected an analysis, got {file} ({' '.join(str(error).split())}) — "
            "give a file written by Analysis.save"
        ) from error


def _unwritable_error(file: Path, error: OSError) -> AnalysisFileError:
    return AnalysisFileError(
        f"file: expected a file that can be written, got {file} ({' '.join(str(error).split())}) — "
        "save it elsewhere"
    )
