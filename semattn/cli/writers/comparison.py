"""The results of `semattn compare`: one figure, all maps, and what each method cost and showed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...utils.result_folder import FolderLike, ResultFolder
from ...viz import Picture, comparison
from .explanation import grid_entries, summary
from .folder import Also, write_json, write_others

if TYPE_CHECKING:
    from ...explain.comparison import Compared, Comparison

COMPARISON_FILES = {"figure": "compare.png", "result": "compare.json", "maps": "maps.npz"}
_OF_THE_MODEL = ("model", "architecture", "weights", "weights_sha256", "weights_note", "versions")
_OF_THE_GRID = ("patches", "patch_size", "patch_origin")


def write_comparison(
    compared: Comparison,
    folder: FolderLike,
    *,
    top: int = 5,
    backdrop: Picture | None = None,
    also: Also = None,
) -> dict[str, Path]:
    """Write figure, result and maps of a comparison into `folder`: the path of each.

    ``maps.npz`` holds one array (H, W) float32 a method, under its name.

    Parameters
    ----------
    compared : what `semattn.compare` returned
    folder : a path, made with its parents where it does not exist; or a `ResultFolder`, which also
        names the command and the inputs
    top : how many classes of the prediction are kept
    backdrop : as for `semattn.viz.comparison`
    also : more files, by name, and what writes each

    Raises
    ------
    OutputError
        For a folder that cannot be written to, or that holds such a file of others; nothing is
        left behind.
    """
    maps: dict[str, Any] = {
        row.method: row.explanation.heat[0].detach().to("cpu", torch.float32).numpy()
        for row in compared.rows
        if row.explanation is not None
    }
    place = ResultFolder.of(folder)
    with place.staged() as stage:
        comparison(compared, backdrop=backdrop).savefig(stage / COMPARISON_FILES["figure"])
        np.savez_compressed(stage / COMPARISON_FILES["maps"], **maps)
        files = COMPARISON_FILES | write_others(stage, also)
        result = summary_of(compared, top=top) | place.inputs_entry() | {"files": files}
        write_json(stage / COMPARISON_FILES["result"], result)
    return {name: place.path / file for name, file in files.items()}


def summary_of(compared: Comparison, *, top: int = 5) -> dict[str, Any]:
    """What was compared, on what image, and what each method cost and showed, ready for JSON.

    What is the methods' own stands in `methods`; `other` is the class that sensitivity was measured
    with, None where there is none.
    """
    first = compared.explanation
    shared = summary(first, top=top)
    for own in (*_OF_THE_GRID, "notes"):
        del shared[own]
    model = {name: first.manifest[name] for name in _OF_THE_MODEL if name in first.manifest}
    other = None
    if compared.other is not None:
        other = {"class": compared.other, "name": first.label(compared.other)}
    return {
        **shared,
        "other": other,
        "manifest": model,
        "methods": [_row(row) for row in compared.rows],
    }


def _row(row: Compared) -> dict[str, Any]:
    made = row.explanation
    return {
        "method": row.method,
        "seconds": row.seconds,
        "peak_mib": row.peak_mib,
        "sensitivity": row.sensitivity,
        "refusal": row.refusal or None,
        **(dict.fromkeys(_OF_THE_GRID) if made is None else grid_entries(made.grid)),
        "parameters": None if made is None else made.manifest["parameters"],
        "notes": [] if made is None else list(made.notes),
    }
