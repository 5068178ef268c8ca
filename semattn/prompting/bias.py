"""From weights of patches to what is added to the scores of attention, nats."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from ..density import concentration
from ..errors import ShapeError
from ..grid import PatchGrid
from ..utils.validation import as_tensor, check_values

CLIP = 2.5
"""Nats: no patch is made more than e^2.5, about 12 times, likelier or unlikelier than the mean."""


def attend(weights: Tensor, clip: float = CLIP) -> Tensor:
    """b_j = clip(log(P p_j), -clip, clip), p the concentration of the weights.

    Parameters
    ----------
    weights : (B, P), >= 0, of any scale
    clip : > 0, nats

    Returns
    -------
    Tensor
        (B, P), nats; gradients flow to the weights.

    Examples
    --------
    >>> import torch
    >>> attend(torch.ones(1, 4)).tolist()
    [[0.0, 0.0, 0.0, 0.0]]
    >>> [round(b, 2) for b in attend(torch.tensor([[0.0, 0.0, 0.0, 9.0]]))[0].tolist()]
    [-2.4, -2.4, -2.4, 1.32]
    """
    p = concentration(weights)
    return (p.shape[-1] * p).log().clamp(-clip, clip)


def suppress(scores: Tensor, clip: float = CLIP) -> Tensor:
    """b_j = -clip score_j: a patch that surely shows what is to be overlooked loses `clip` nats.

    Parameters
    ----------
    scores : (B, P) in [0, 1], how surely each patch shows it; 0 everywhere changes nothing
    clip : > 0, nats
    """
    values = scores.detach()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            f"weights: expected scores in [0, 1] to lead away from, got [{float(values.min()):.4g},"
            f" {float(values.max()):.4g}] — divide by the greatest"
        )
    return -clip * scores


class Known:
    """A cue whose bias (1 or B, P) is there already, nats."""

    def __init__(self, made: Tensor) -> None:
        self.made = made

    def bias(self, _: Tensor) -> Tensor:
        """The same for all images."""
        return self.made


def on_grid(values: Any, grid: PatchGrid, batch: int, name: str = "weights") -> Tensor:
    """Values (P,), (B, P) or (B, h, w) as (1 or B, P), or the one line that says what is wrong."""
    try:
        given = as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected numbers, got {type(values).__name__}") from error
    check_values(name, given)
    if given.ndim == 3 and tuple(given.shape[1:]) == grid.shape:
        given = given.flatten(1)
    given = given[None] if given.ndim == 1 else given
    if given.ndim != 2:
        raise ShapeError(
            f"{name}: expected (B, {grid.patches}), got {tuple(given.shape)} — one a patch"
        )
    grid.check(given, name)
    if len(given) not in (1, batch):
        raise ShapeError(
            f"{name}: expected those of {batch} images, got {len(given)} — one row an image, "
            "or one for all"
        )
    if not bool(given.detach().isfinite().all()):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity — clean them first")
    return given


def weighty(weights: Tensor) -> Tensor:
    """The same weights (B, P), if none is below 0 and one of each image above."""
    values = weights.detach()
    if not bool((values >= 0).all()):
        raise ValueError(
            f"weights: expected numbers >= 0, got {float(values.min()):.4g} — clip them, or lead "
            "away with away=True"
        )
    blank = (values == 0).all(dim=1).nonzero().flatten().tolist()
    if blank:
        raise ValueError(
            f"weights: expected one above 0 at least, got none for image {blank[0]} — "
            "there is nothing to attend to"
        )
    return weights


def check_nats(name: str, value: Any) -> Any:
    """A number above 0 as it is."""
    if not (isinstance(value, (int, float)) and value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: expected nats above 0, got {value!r} — {CLIP} is the usual clip")
    return value
