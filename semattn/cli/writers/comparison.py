"""Result files of `semattn compare`: figure, maps and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...utils.result_folder import FolderLike, ResultFolder
from ...viz import Picture, comparison
from .explanation import grid_entries, summary
from .folder import ExtraFiles, write_extra_files, write_json

if TYPE_CHECKING:
    from ...explain.comparison import Comparison, MethodResult

COMPARISON_FILES = {"figure": "compare.png", "result": "compare.json", "maps": "maps.npz"}
_MODEL_KEYS = ("model", "architecture", "weights", "weights_sha256", "weights_note", "versions")
_GRID_KEYS = ("patches", "patch_size", "patch_origin")


def write_comparison(
    compared: Comparison,
    folder: FolderLike,
    *,
    top: int = 5,
    backdrop: Picture | None = None,
    extra_files: ExtraFiles = None,
) -> dict[str, Path]:
    """Write figure, result and maps of a comparison into `folder`; return the path of each.

    ``maps.npz`` contains one float32 array (H, W) per method, under its name.

    Parameters
    ----------
    compared : result of `semattn.compare`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    top : number of predicted classes to store
    backdrop : see `semattn.viz.comparison`
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    maps: dict[str, Any] = {
        row.method: row.explanation.heat_map[0].detach().to("cpu", torch.float32).numpy()
        for row in compared.rows
        if row.explanation is not None
    }
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        comparison(compared, backdrop=backdrop).savefig(stage / COMPARISON_FILES["figure"])
        np.savez_compressed(stage / COMPARISON_FILES["maps"], **maps)
        files = COMPARISON_FILES | write_extra_files(stage, extra_files)
        result = summary_of(compared, top=top) | results.inputs_entry() | {"files": files}
        write_json(stage / COMPARISON_FILES["result"], result)
    return {name: results.path / file for name, file in files.items()}


def summary_of(compared: Comparison, *, top: int = 5) -> dict[str, Any]:
    """Return the image, prediction and the results of each method, ready for JSON.

    `methods` has one entry per method; `other` is the second class of the sensitivity, or None.
    """
    first = compared.explanation
    shared = summary(first, top=top)
    for key in (*_GRID_KEYS, "notes"):
        del shared[key]
    model = {name: first.manifest[name] for name in _MODEL_KEYS if name in first.manifest}
    other = None
    if compared.other is not None:
        other = {"class": compared.other, "name": first.label(compared.other)}
    return {
        **shared,
        "other": other,
        "manifest": model,
        "methods": [_row(row) for row in compared.rows],
    }


def _row(row: MethodResult) -> dict[str, Any]:
    explanation = row.explanation
    return {
        "method": row.method,
        "seconds": row.seconds,
        "peak_mib": row.peak_mib,
        "sensitivity": row.sensitivity,
        "refusal": row.refusal or None,
        **(dict.fromkeys(_GRID_KEYS) if explanation is None else grid_entries(explanation.grid)),
        "parameters": None if explanation is None else explanation.manifest["parameters"],
        "notes": [] if explanation is None else list(explanation.notes),
    }
