"""Table row and map that an audit stores for each explained image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..density import Scene, count
from ..explain import Explanation
from ..utils.validation import check_labels

NONE = -1  # class number of an unknown class

# Columns and their types. The map of a row is in `maps` of the file of its unit.
COLUMNS = {
    "number": np.int64, "label": np.int32, "predicted": np.int32, "probability": np.float32,
    "keypoints": np.int32, "spread": np.float32, "x": np.float32, "y": np.float32,
    "on_empty": np.float32,
}  # fmt: skip


def rows_of(
    explanation: Explanation, numbers: Sequence[int], labels: Sequence[int | None]
) -> dict[str, np.ndarray]:
    """Return the columns of `COLUMNS`, each (B,), and `maps` (B, h, w) float16, each of sum 1.

    `spread` is exp(entropy) / P, the fraction of the patches that the map covers. `x` and `y` are
    its centre, from 0 (left, top) to 1. `on_empty` is its share on patches without a keypoint. All
    of them are NaN for a map of zeros.

    Raises
    ------
    LabelError
        For a label that is not a class of the model.
    """
    if explanation.output.has_answers:
        known_labels = [label for label in labels if label is not None]
        check_labels(
            known_labels, len(known_labels), explanation.output.answers(explanation.outputs)
        )
    maps = explanation.patch_map.cpu().double()
    flat = maps.flatten(1)
    parts = flat / flat.sum(dim=1, keepdim=True)
    entropy = torch.special.entr(parts).sum(dim=1)
    centers = explanation.grid.centers()
    height, width = explanation.grid.image_size
    x, y = (
        parts @ ((centers + 0.5) / torch.tensor([width, height], dtype=torch.float64, device="cpu"))
    ).T
    keypoints = count(Scene(explanation.images.pixels, explanation.keypoints, explanation.grid))
    predicted, probability = _predicted(explanation)
    columns: dict[str, Any] = {
        "number": numbers,
        "label": [NONE if label is None else label for label in labels],
        "predicted": predicted, "probability": probability,
        "keypoints": [len(keypoints_of_image) for keypoints_of_image in explanation.keypoints],
        "spread": entropy.exp() / flat.shape[1], "x": x, "y": y,
        "on_empty": (parts * (keypoints == 0)).sum(dim=1),
    }  # fmt: skip
    rows = {name: np.asarray(columns[name], kind) for name, kind in COLUMNS.items()}
    return rows | {"maps": parts.nan_to_num(0.0).reshape(maps.shape).numpy().astype(np.float16)}


def _predicted(explanation: Explanation) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted answer of each image and its probability.

    The answer is `NONE` for a model without classes; the probability is NaN for an output that is
    not a percentage.
    """
    predicted = explanation.predicted()
    unknown = np.full(len(explanation), np.nan)
    if predicted is None:
        return np.full(len(explanation), NONE), unknown
    answers = predicted.cpu()
    probabilities = (
        explanation.output.probabilities(explanation.logits.cpu())
        if explanation.output.in_percent
        else None
    )
    if probabilities is None:
        return answers.numpy(), unknown
    return answers.numpy(), probabilities.gather(1, answers[:, None])[:, 0].numpy()


def joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the concatenated columns of several batches; empty columns without batches."""
    if parts:
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: np.zeros(0, kind) for name, kind in COLUMNS.items()}
