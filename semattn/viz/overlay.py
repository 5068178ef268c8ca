"""A map laid over its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..errors import ShapeError
from .style import MAP, colours, faded

if TYPE_CHECKING:
    from ..explain import Explanation

Picture = NDArray[np.uint8]

OPACITY = 0.88  # of the highest value: the photograph stays visible under it
FLOOR, CEILING = 0.20, 0.995  # quantiles of the map that are drawn as nothing and as full


def overlay(
    explanation: Explanation, index: int = 0, *, backdrop: Picture | None = None
) -> Picture:
    """The picture with its map laid over: uint8 (H, W, 3).

    Colour and opacity both follow the value, so that what does not matter stays a photograph.
    Values run from the map's 20 % quantile to its 99.5 % quantile and are clipped there: one
    extreme pixel does not darken the rest. A constant map draws nothing. Of a signed map the
    positive part is drawn: what speaks against the target counts as 0, quantiles included.

    Parameters
    ----------
    explanation : what an explainer's `explain` returned
    index : which image of the batch
    backdrop : (H', W', 3) uint8, the same view in another resolution, drawn instead of the
        pixels that the model saw; the map is resampled to it

    Raises
    ------
    ShapeError
        For an index that the batch does not have, or a backdrop that is no picture.
    """
    picture = picture_of(explanation, index, backdrop)
    return blended(explanation.heat[index], picture)


def blended(heat: torch.Tensor, picture: Picture) -> Picture:
    """A map (H, W) over a picture, as `overlay` draws it."""
    value = _scaled(_resampled(heat.clamp(min=0), picture.shape[:2]))
    alpha = OPACITY * value[..., None] ** 0.7
    mixed = (1 - alpha) * faded(picture, 0.55, 0.9) + alpha * colours(MAP, value)
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)


def is_signed(explanation: Explanation, index: int = 0) -> bool:
    """Whether the map has a negative part, which is not drawn."""
    return bool((explanation.heat[index] < 0).any())


def picture_of(explanation: Explanation, index: int, backdrop: Picture | None) -> Picture:
    """The pixels to draw on, after a look at what was asked for."""
    count = len(explanation.heat)
    if not -count <= index < count:
        raise ShapeError(f"index: expected one of {count} images, got {index} — count from 0")
    if backdrop is None:
        return explanation.images.pixels[index]
    if backdrop.ndim != 3 or backdrop.shape[2] != 3 or backdrop.dtype != np.uint8:
        raise ShapeError(
            f"backdrop: expected (H, W, 3) of uint8, got {backdrop.shape} of {backdrop.dtype} — "
            "give the picture that a person sees"
        )
    return backdrop


def _resampled(heat: torch.Tensor, size: tuple[int, ...]) -> NDArray[np.float64]:
    """A map (H, W) at another size."""
    values = heat.detach().cpu().double()
    if tuple(values.shape) != tuple(size):
        values = F.interpolate(values[None, None], size=size[:2], mode="bilinear")[0, 0]
    return values.numpy()


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values between 0 at the floor's quantile and 1 at the ceiling's; all 0 if they agree."""
    low, high = np.quantile(values, [FLOOR, CEILING])
    if high - low <= 1e-12 * max(abs(high), 1e-300):
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1)
