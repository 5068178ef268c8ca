"""Result files of explain, compare and prompt: figures, maps and JSON.

A result folder is written completely or not at all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..utils.result_folder import FolderLike, ResultFolder
from ..viz import Picture, comparison, figure, overlay, strength_sweep
from .outputs import ExtraFiles, write_extra_files, write_json

if TYPE_CHECKING:
    from ..explain import Explanation
    from ..explain.comparison import Comparison, MethodResult
    from ..grid import PatchGrid
    from ..prompting.strength_sweep import StrengthSweep


EXPLANATION_FILES = {
    "overlay": "overlay.png",
    "figure": "figure.png",
    "map": "map.npy",
    "result": "result.json",
}
COMPARISON_FILES = {"figure": "compare.png", "result": "compare.json", "maps": "maps.npz"}
STRENGTH_SWEEP_FILES = {"figure": "prompt.png", "result": "prompt.json", "maps": "maps.npz"}
_MODEL_KEYS = ("model", "architecture", "weights", "weights_sha256", "weights_note", "versions")
_GRID_KEYS = ("patches", "patch_size", "patch_origin")


def write_explanation(
    explanation: Explanation,
    folder: FolderLike,
    *,
    index: int = 0,
    top: int = 5,
    backdrop: Picture | None = None,
    extra_files: ExtraFiles = None,
) -> dict[str, Path]:
    """Write figures, map and result of one image into `folder`; return the path of each.

    Parameters
    ----------
    explanation, index, backdrop : see `semattn.viz.overlay`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    top : number of predicted classes to store
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    from PIL import Image

    result = explanation_summary(explanation, index=index, top=top)
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        overlay_image = Image.fromarray(overlay(explanation, index, backdrop=backdrop))
        overlay_image.save(
            stage / EXPLANATION_FILES["overlay"], compress_level=2
        )  # fast, and hardly larger
        figure(explanation, index, backdrop=backdrop).savefig(stage / EXPLANATION_FILES["figure"])
        heat_map = explanation.heat_map[index].detach().to("cpu", torch.float32).numpy()
        np.save(stage / EXPLANATION_FILES["map"], heat_map)
        files = EXPLANATION_FILES | write_extra_files(stage, extra_files)
        write_json(
            stage / EXPLANATION_FILES["result"], result | results.inputs_entry() | {"files": files}
        )
    return {name: results.path / file for name, file in files.items()}


def explanation_summary(
    explanation: Explanation, *, index: int = 0, top: int = 5
) -> dict[str, Any]:
    """Return prediction, target and settings of one image, ready for JSON.

    `predictions` are the `top` classes with their probabilities. `target` is the explained class;
    if it is None, `target_description` describes the explained output. `output` is the kind of the
    model's output; if it is not a percentage, `probability` is null and `value` is the number.
    """
    predictions = predicted_classes(explanation, index=index, top=top)
    answer = explanation.target_answer(index)
    target = None if answer is None else _answer(explanation, index, answer)
    grid, keypoints = explanation.grid, explanation.keypoints[index]
    return {
        "image": explanation.images.names[index],
        "predictions": predictions,
        "target": target,
        "target_description": explanation.target_description,
        "output": explanation.output.kind.value,
        "input_size": list(grid.image_size),
        **grid_entries(grid),
        "keypoints": {"detector": keypoints.detector, "count": len(keypoints)},
        "notes": list(explanation.notes),
        "manifest": explanation.manifest,
    }


def grid_entries(grid: PatchGrid) -> dict[str, list[float]]:
    """Return the shape of the grid, the patch size and the corner of the first patch, pixels."""
    return {
        "patches": list(grid.shape),
        "patch_size": list(grid.cell),
        "patch_origin": list(grid.origin),
    }


def predicted_classes(
    explanation: Explanation, *, index: int = 0, top: int = 5
) -> list[dict[str, Any]]:
    """Return the `top` classes by score; empty for a model without classes.

    For a binary model, the list contains only the predicted answer.
    """
    return [_answer(explanation, index, answer) for answer in explanation.leading(index, top)]


def _answer(explanation: Explanation, index: int, answer: int) -> dict[str, Any]:
    """Return the number, name, probability and value of an answer."""
    values = explanation.logits[index].detach().cpu().double().flatten()
    binary = explanation.output.is_binary(len(values))
    return {
        "class": answer,
        "name": explanation.answer_label(answer),
        "probability": explanation.probability(index, answer),
        "value": float(values[0 if binary else answer]),
    }


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
        result = comparison_summary(compared, top=top) | results.inputs_entry() | {"files": files}
        write_json(stage / COMPARISON_FILES["result"], result)
    return {name: results.path / file for name, file in files.items()}


def comparison_summary(compared: Comparison, *, top: int = 5) -> dict[str, Any]:
    """Return the image, prediction and the results of each method, ready for JSON.

    `methods` has one entry per method; `other` is the second class of the sensitivity, or None.
    """
    first = compared.explanation
    shared = explanation_summary(first, top=top)
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


def write_strength_sweep(
    prompted: StrengthSweep,
    folder: FolderLike,
    *,
    top: int = 5,
    settings: dict[str, Any] | None = None,
    backdrop: Picture | None = None,
    extra_files: ExtraFiles = None,
) -> dict[str, Path]:
    """Write figure, result and maps of one prompted image into `folder`; return the path of each.

    ``maps.npz`` contains `strengths` (S,), `maps` (S, h, w) and `bias` (h, w), nats at strength 1.

    Parameters
    ----------
    prompted : result of `semattn.prompting.strength_sweep.strength_sweep`
    folder : a path, created with its parents if missing; or a `ResultFolder`, which also names
        the command and the inputs
    top : number of classes to store
    settings : settings of the prompt, ready for JSON
    backdrop : see `semattn.viz.overlay`
    extra_files : writers of further files, by file name

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        strength_sweep(prompted, backdrop=backdrop).savefig(stage / STRENGTH_SWEEP_FILES["figure"])
        np.savez_compressed(
            stage / STRENGTH_SWEEP_FILES["maps"],
            strengths=np.array(prompted.strengths),
            maps=prompted.maps.numpy().astype(np.float32),
            bias=prompted.grid.fold(prompted.bias).numpy().astype(np.float32),
        )
        files = STRENGTH_SWEEP_FILES | write_extra_files(stage, extra_files)
        result = sweep_summary(prompted, top, settings) | results.inputs_entry() | {"files": files}
        write_json(stage / STRENGTH_SWEEP_FILES["result"], result)
    return {name: results.path / file for name, file in files.items()}


def sweep_summary(
    prompted: StrengthSweep, top: int = 5, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return explanation, prompt and probabilities at every strength, ready for JSON."""
    first = prompted.explanation
    binary = first.output.is_binary(first.outputs)
    probabilities = prompted.probabilities
    rows = prompted.logits.reshape(len(prompted.logits), -1)

    def named(number: int) -> dict[str, Any]:
        return {"class": number, "name": first.answer_label(number)}

    def shares(number: int) -> dict[str, Any]:
        if first.output.in_percent:
            return {"probabilities": [round(p, 6) for p in probabilities[:, number].tolist()]}
        return {"values": [round(value, 6) for value in rows[:, 0 if binary else number].tolist()]}

    return {
        **explanation_summary(first, top=top),
        "prompt": {"direction": prompted.prompt, **(settings or {})},
        "strengths": list(prompted.strengths),
        "classes": [named(number) | shares(number) for number in prompted.leading(top)],
        "flips": [
            {"strength": strength, "before": named(before), "after": named(after)}
            for strength, before, after in prompted.flips()
        ],
    }
