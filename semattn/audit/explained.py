"""What an audit keeps of each explained image: a row of the table, and its map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..density import Scene, count
from ..explain import Explanation
from ..utils.validation import check_labels

NONE = -1  # a class that is not known

# Column: what it is. A row's map is `maps` of its unit's file, at its place.
COLUMNS = {
    "number": np.int64, "label": np.int32, "predicted": np.int32, "probability": np.float32,
    "keypoints": np.int32, "spread": np.float32, "x": np.float32, "y": np.float32,
    "on_empty": np.float32,
}  # fmt: skip


def rows_of(
    made: Explanation, numbers: Sequence[int], labels: Sequence[int | None]
) -> dict[str, np.ndarray]:
    """A column each of `COLUMNS`, (B,), and `maps` (B, h, w) float16, each of sum 1.

    `spread` is the part of the patches that the map is on: e to its entropy, over P. `x` and `y`
    are its centre, from 0 (left, top) to 1. `on_empty` is its share on patches without a keypoint.
    A map that is zero has NaN for all three.

    Raises
    ------
    LabelError
        For a label that is no class of the model.
    """
    if made.output.has_answers:
        known = [one for one in labels if one is not None]
        check_labels(known, len(known), made.output.answers(made.outputs))
    maps = made.patch_map.cpu().double()
    flat = maps.flatten(1)
    parts = flat / flat.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(parts).sum(dim=1)
    centers = made.grid.centers()
    height, width = made.grid.image_size
    x, y = (
        parts @ ((centers + 0.5) / torch.tensor([width, height], dtype=torch.float64, device="cpu"))
    ).T
    keypoints = count(Scene(made.images.pixels, made.keypoints, made.grid))
    predicted, probability = _predicted(made)
    columns: dict[str, Any] = {
        "number": numbers,
        "label": [NONE if one is None else one for one in labels],
        "predicted": predicted, "probability": probability,
        "keypoints": [len(one) for one in made.keypoints],
        "spread": entropy.exp() / flat.shape[1], "x": x, "y": y,
        "on_empty": (parts * (keypoints == 0)).sum(dim=1),
    }  # fmt: skip
    found = {name: np.asarray(columns[name], kind) for name, kind in COLUMNS.items()}
    return found | {"maps": parts.nan_to_num(0.0).reshape(maps.shape).numpy().astype(np.float16)}


def _predicted(made: Explanation) -> tuple[np.ndarray, np.ndarray]:
    """The predicted answer of each image and its probability.

    No answer for a model without classes; no probability where the output is no percentage.
    """
    predicted = made.predicted()
    nothing = np.full(len(made), np.nan)
    if predicted is None:
        return np.full(len(made), NONE), nothing
    answers = predicted.cpu()
    probabilities = made.output.probabilities(made.logits.cpu()) if made.output.in_percent else None
    if probabilities is None:
        return answers.numpy(), nothing
    return answers.numpy(), probabilities.gather(1, answers[:, None])[:, 0].numpy()


def joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The columns of several batches, one after the other; empty ones where there are none."""
    if parts:
        return {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    return {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}
