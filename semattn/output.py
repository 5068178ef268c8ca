"""What a command leaves on the disk: pictures, the map, and a record of how they came about.

A folder of results is complete or it is not there. Knows explanations and how to draw them, and
nothing of the command line.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .errors import SemattnError
from .viz import Picture, figure, overlay

if TYPE_CHECKING:
    from .explain import Explanation

FILES = {
    "overlay": "overlay.png",
    "figure": "figure.png",
    "map": "map.npy",
    "result": "result.json",
}


class OutputError(SemattnError, OSError):
    """A folder that results cannot be written to."""


def check_folder(folder: Path) -> None:
    """Raise OutputError unless `folder` is one that can be written to, or can be made."""
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"out: expected a folder, got the file {folder} — choose another name")
    if folder.is_symlink() and not folder.exists():
        raise OutputError(f"out: expected a folder, got {folder}, a link that leads nowhere")
    if not os.access(_standing(folder), os.W_OK | os.X_OK):
        raise OutputError(f"out: expected a folder to write to, got {folder} — it is read-only")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write into, whose files take their places in `folder` at the end, or never.

    Made on the same disk, so that taking their places is renaming: all at once where `folder` is
    new, file by file (from a hidden folder within) where it stands already. Other files in it are
    left alone.

    Raises
    ------
    OutputError
        As `check_folder` does.
    """
    check_folder(folder)
    own = Path(tempfile.mkdtemp(prefix=".semattn-", dir=_standing(folder)))
    try:
        stage = own / "files"  # mkdtemp makes its folder private; this one is as any other
        stage.mkdir()
        yield stage
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            for path in sorted(stage.iterdir()):
                path.replace(folder / path.name)
        else:
            stage.replace(folder)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def write(
    explanation: Explanation,
    folder: Path,
    *,
    index: int = 0,
    top: int = 5,
    backdrop: Picture | None = None,
) -> dict[str, Path]:
    """Write pictures, map and result of one image into `folder`: the path of each.

    Parameters
    ----------
    explanation, index, backdrop : as for `semattn.viz.overlay`
    folder : made with its parents if it is not there
    top : how many classes of the prediction are kept

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
        text = json.dumps({**result, "files": FILES}, indent=2, ensure_ascii=False, allow_nan=False)
        (stage / FILES["result"]).write_text(text + "\n", encoding="utf-8")
    return {name: folder / file for name, file in FILES.items()}


def summary(explanation: Explanation, *, index: int = 0, top: int = 5) -> dict[str, Any]:
    """What was predicted and explained of one image, ready for JSON.

    `predictions` are the `top` classes with their probabilities; `target` is the explained one,
    None for a feature direction.
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
        "input_size": list(grid.image_size),
        "patches": list(grid.shape),
        "keypoints": {"detector": keypoints.detector, "count": len(keypoints)},
        "notes": list(explanation.notes),
        "manifest": explanation.manifest,
    }


def predicted(explanation: Explanation, *, index: int = 0, top: int = 5) -> list[dict[str, Any]]:
    """The `top` classes by probability; none for a model that has no classes."""
    if explanation.target is None or explanation.logits.ndim != 2:
        return []
    chance = explanation.logits[index].detach().to("cpu", torch.float64).softmax(-1)
    values, numbers = chance.topk(min(top, len(chance)))
    return [
        {"class": number, "name": explanation.label(number), "probability": value}
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
    ]


def _standing(folder: Path) -> Path:
    """The nearest folder above (or at) `folder` that exists."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder
