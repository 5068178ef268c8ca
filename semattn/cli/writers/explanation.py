"""Result files of `semattn explain`: figures, map and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...utils.result_folder import FolderLike, ResultFolder
from ...viz import Picture, figure, overlay
from .folder import ExtraFiles, write_extra_files, write_json

if TYPE_CHECKING:
    from ...explain import Explanation
    from ...grid import PatchGrid

FILES = {
    "overlay": "overlay.png",
    "figure": "figure.png",
    "map": "map.npy",
    "result": "result.json",
}


def write(
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

    result = summary(explanation, index=index, top=top)
    results = ResultFolder.of(folder)
    with results.staged() as stage:
        overlay_image = Image.fromarray(overlay(explanation, index, backdrop=backdrop))
        overlay_image.save(stage / FILES["overlay"], compress_level=2)  # fast, and hardly larger
        figure(explanation, index, backdrop=backdrop).savefig(stage / FILES["figure"])
        heat_map = explanation.heat_map[index].detach().to("cpu", torch.float32).numpy()
        np.save(stage / FILES["map"], heat_map)
        files = FILES | write_extra_files(stage, extra_files)
        write_json(stage / FILES["result"], result | results.inputs_entry() | {"files": files})
    return {name: results.path / file for name, file in files.items()}


def summary(explanation: Explanation, *, index: int = 0, top: int = 5) -> dict[str, Any]:
    """Return prediction, target and settings of one image, ready for JSON.

    `predictions` are the `top` classes with their probabilities. `target` is the explained class;
    if it is None, `target_description` describes the explained output. `output` is the kind of the
    model's output; if it is not a percentage, `probability` is null and `value` is the number.
    """
    predictions = predicted(explanation, index=index, top=top)
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


def predicted(explanation: Explanation, *, index: int = 0, top: int = 5) -> list[dict[str, Any]]:
    """Return the `top` classes by score; empty for a model without classes.

    For a binary model, the list contains only the predicted answer.
    """
    binary = explanation.output.is_binary(explanation.outputs)
    if not explanation.output.has_answers or (explanation.target is None and not binary):
        return []
    scores = explanation.output.scores(explanation.logits[index : index + 1].detach())[0].cpu()
    best = scores.topk(1 if binary else min(top, len(scores))).indices.tolist()
    return [_answer(explanation, index, answer) for answer in best]


def _answer(explanation: Explanation, index: int, answer: int) -> dict[str, Any]:
    """Return the number, name, probability and value of an answer."""
    row = explanation.logits[index].detach().cpu().double().reshape(1, -1)
    meaning = explanation.output
    probabilities = meaning.probabilities(row) if meaning.in_percent else None
    binary = meaning.is_binary(row.shape[1])
    return {
        "class": answer,
        "name": explanation.answer_label(answer),
        "probability": None if probabilities is None else float(probabilities[0, answer]),
        "value": float(row[0, 0 if binary else answer]),
    }
