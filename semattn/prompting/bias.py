"""Conversion of patch weights to the bias that is added to attention scores, nats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..density import concentration
from ..errors import ShapeError
from ..grid import PatchGrid
from ..utils.validation import as_tensor, check_values

CLIP = 2.5
"""Nats: the bias changes the odds of a patch by at most a factor of e^2.5, about 12."""

HIDING_CLIP = 30.0
"""Nats: attention to a hidden patch is reduced by e^-30."""


def attention_bias(weights: Tensor, clip: float = CLIP) -> Tensor:
    """Compute b_j = clip(log(P p_j), -clip, clip), where p is the concentration of the weights.

    Parameters
    ----------
    weights : (B, P), >= 0, any scale
    clip : > 0, nats

    Returns
    -------
    Tensor
        (B, P), nats; gradients flow to the weights.

    Examples
    --------
    >>> import torch
    >>> attention_bias(torch.ones(1, 4)).tolist()
    [[0.0, 0.0, 0.0, 0.0]]
    >>> [round(b, 2) for b in attention_bias(torch.tensor([[0.0, 0.0, 0.0, 9.0]]))[0].tolist()]
    [-2.4, -2.4, -2.4, 1.32]
    """
    p = concentration(weights)
    return (p.shape[-1] * p).log().clamp(-clip, clip)


def suppression_bias(scores: Tensor, clip: float = CLIP) -> Tensor:
    """Compute b_j = -clip score_j: a patch with score 1 loses `clip` nats.

    Parameters
    ----------
    scores : (B, P) in [0, 1], certainty that a patch shows the suppressed content; 0 has no effect
    clip : > 0, nats
    """
    values = scores.detach()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"weights: expected scores in [0, 1] with suppress=True, got "
            f"[{float(values.min()):.4g}, {float(values.max()):.4g}] — divide by the maximum"
        )
    return -clip * scores


class StoredCue:
    """Cue with a precomputed bias (1 or B, P), nats."""

    def __init__(self, nats: Tensor) -> None:
        self.nats = nats

    def bias(self, _: Tensor) -> Tensor:
        """Return the bias; the inputs are ignored."""
        return self.nats


class HiddenCue:
    """Cue whose patches are hidden: `hidden` returns them as bool (B, P) for inputs."""

    def __init__(self, hidden: Callable[[Tensor], Tensor]) -> None:
        self.hidden = hidden

    def bias(self, inputs: Tensor) -> Tensor:
        """Return the bias (B, P) for images (B, C, H, W), nats."""
        return -HIDING_CLIP * self.hidden(inputs).float()


def as_patch_values(values: Any, grid: PatchGrid, batch: int, name: str = "weights") -> Tensor:
    """Convert values (P,), (B, P) or (B, h, w) to (1 or B, P); raise for other shapes or types."""
    try:
        array = as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected numbers, got {type(values).__name__}") from error
    check_values(name, array)
    if array.ndim == 3 and tuple(array.shape[1:]) == grid.shape:
        array = array.flatten(1)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise ShapeError(
            f"{name}: expected (B, {grid.patches}), got {tuple(array.shape)} — one per patch"
        )
    grid.check(array, name)
    if len(array) not in (1, batch):
        raise ShapeError(
            f"{name}: expected {batch} rows, one per image, or a single row for all images, got "
            f"{len(array)}"
        )
    if not bool(array.detach().isfinite().all()):
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity — replace them first"
        )
    return array


def check_weights(weights: Tensor) -> Tensor:
    """Return the weights (B, P); raise if one is negative or all of an image are 0."""
    values = weights.detach()
    if not bool((values >= 0).all()):
        raise ValueError(
            f"weights: expected numbers >= 0, got {float(values.min()):.4g} — clip them, or "
            "suppress patches with suppress=True"
        )
    empty = (values == 0).all(dim=1).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"weights: expected at least one above 0 per image, got none for image {empty[0]} — "
            "pass a weight above 0"
        )
    return weights


def check_positive(name: str, value: Any) -> Any:
    """Return the value; raise if it is not a finite number above 0."""
    if not (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
        raise ValueError(
            f"{name}: expected nats above 0, got {value!r} — the default clip is {CLIP}"
        )
    return value
