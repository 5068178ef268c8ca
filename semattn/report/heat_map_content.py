"""Content of the answer of a report: the heat map, the first classes, and how spread the map is."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..explain import Explanation
from ..viz.overlay import CEILING, FLOOR, is_signed

SIDE = 256  # pixels of the longer side of a map with more than one pixel per patch


def about_answer(explanation: Explanation, index: int) -> dict[str, Any]:
    """Return the heat map, the first classes, and the number of patches with half the relevance.

    `probability` of a class is the length of its bar, None without a percentage; `share` is its
    label.
    """
    target = explanation.target_answer(index)
    classes = [
        {
            "label": explanation.answer_label(answer),
            "share": explanation.share_text(index, answer),
            "explained": answer == target,
            "probability": explanation.probability(index, answer),
        }
        for answer in explanation.leading(index)
    ]
    half = patches_with_half(explanation.patch_map[index].flatten())
    return heat_map_of(explanation, index) | {"classes": classes, "half": half}


def heat_map_of(explanation: Explanation, index: int) -> dict[str, Any]:
    """Return the size and the bytes of the heat map of an image, and whether it is signed."""
    heat_map = explanation.heat_map[index].detach().cpu().double()
    size = [max(1, round(side * min(1, SIDE / max(heat_map.shape)))) for side in heat_map.shape]
    if size != list(heat_map.shape):
        heat_map = F.interpolate(heat_map[None, None], size=size, mode="area")[0, 0]
    return {"size": size, "map": map_of(heat_map), "signed": is_signed(explanation, index)}


def map_of(values: Tensor) -> str:
    """Return a map as bytes in base64: 0 at its 20 % quantile, 255 at its 99.5 % quantile.

    Negative values count as 0. All bytes are 0 if the two quantiles are equal.
    """
    positive = values.detach().cpu().double().clamp(min=0).numpy()
    low, high = np.quantile(positive, [FLOOR, CEILING])
    span = high - low
    if span <= 1e-12 * max(abs(high), 1e-300):
        codes = np.zeros(positive.shape, dtype=np.uint8)
    else:
        codes = (((positive - low) / span).clip(0, 1) * 255).round().astype(np.uint8)
    return base64.b64encode(codes.tobytes()).decode("ascii")


def patches_with_half(relevance: Tensor) -> int | None:
    """Return the least number of patches with half of the positive relevance (P,); None without it.

    Examples
    --------
    >>> import torch
    >>> patches_with_half(torch.tensor([1.0, 5.0, 2.0, -9.0, 1.0]))
    1
    """
    positive = relevance.detach().cpu().double().clamp(min=0).sort(descending=True).values
    total = float(positive.sum())
    if not total > 0:
        return None
    return int((positive.cumsum(0) < total / 2 * (1 - 1e-12)).sum()) + 1
