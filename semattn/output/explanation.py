"""The results of `semattn explain`: pictures, the map, and what was predicted and explained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..viz import Picture, figure, overlay
from .folder import Also, staged, write_json, write_others

if TYPE_CHECKING:
    from ..explain import Explanation
    from ..grid import PatchGrid

FILES = {
    "overlay": "overlay.png",
    "figure": "figure.png",
    "map": "map.npy",
    "result": "result.json",
}


def write(
    explanation: Explanation,
    folder: Path,
    *,
    index: int = 0,
    top: int = 5,
    backdrop: Picture | None = None,
    also: Also = None,
) -> dict[str, Path]:
    """Write pictures, map and result of one image into `folder`: the path of each.

    Parameters
    ----------
    explanation, index, backdrop : as for `semattn.viz.overlay`
    folder : made with its parents if it is not there
    top : how many classes of the prediction are kept
    also : more files, by name, and what writes each

    Raises
    ------
    OutputError
        For a folder that cannot be written to; nothing is left behind.
    """
    from PIL import Image

    result = summary(explanation, index=index, top=top)
    with staged(folder) as stage:
        laid_over = Image.fromarray(overlay(explanation, index, backdrop=backdrop))
        laid_over.save(stage / FILES["overlay"])
        figure(explanation, index, backdrop=backdrop).savefig(stage / FILES["figure"])
        heat = explanation.heat[index].detach().to("cpu", torch.float32).numpy()
        np.save(stage / FILES["map"], heat)
        files = FILES | write_others(stage, also)
        write_json(stage / FILES["result"], {**result, "files": files})
    return {name: folder / file for name, file in files.items()}


def summary(explanation: Explanation, *, index: int = 0, top: int = 5) -> dict[str, Any]:
    """What was predicted and explained of one image, ready for JSON.

    `predictions` are the `top` classes with their probabilities; `target` is the explained one,
    None where no class was explained; `explains` then says what was.
    """
    predictions = predicted(explanation, index=index, top=top)
    target = None
    if explanation.target is not None:
        number = int(explanation.target[index])
        everything = predicted(explanation, index=index, top=explanation.logits.shape[-1])
        target = next(one for one in everything if one["class"] == number)
    grid, keypoints = explanation.grid, explanation.keypoints[index]
    return {
        "image": explanation.images.names[index],
        "predictions": predictions,
        "target": target,
        "explains": explanation.explains,
        "input_size": list(grid.image_size),
        **grid_entries(grid),
        "keypoints": {"detector": keypoints.detector, "count": len(keypoints)},
        "notes": list(explanation.notes),
        "manifest": explanation.manifest,
    }


def grid_entries(grid: PatchGrid) -> dict[str, list[float]]:
    """Rows and columns of patches, size of one, and corner of the first (y, x), pixels."""
    return {
        "patches": list(grid.shape),
        "patch_size": list(grid.cell),
        "patch_origin": list(grid.origin),
    }


def predicted(explanation: Explanation, *, index: int = 0, top: int = 5) -> list[dict[str, Any]]:
    """The `top` classes by probability; none for a model that has no classes."""
    if explanation.target is None or explanation.logits.ndim != 2:
        return []
    chance = explanation.logits[index].detach().cpu().double().softmax(-1)
    values, numbers = chance.topk(min(top, len(chance)))
    return [
        {"class": number, "name": explanation.label(number), "probability": value}
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
    ]
