"""Overlay of a heat map on its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..errors import ShapeError
from .canvas import MAP, apply_palette, fade_picture

if TYPE_CHECKING:
    from ..explain import Explanation

Picture = NDArray[np.uint8]

OPACITY = 0.88  # at the highest value
MEAN_OPACITY = 0.30  # limit of the mean over the picture, so that it stays visible
FLOOR, CEILING = (
    0.20,
    0.995,
)  # quantiles of the map that are drawn as transparent and as full colour


def overlay(
    explanation: Explanation, index: int = 0, *, backdrop: Picture | None = None
) -> Picture:
    """Return the picture with its heat map on top: uint8 (H, W, 3).

    Colour and opacity both follow the value, so irrelevant areas keep the colours of the picture.
    Where most of the map is high, the opacity is reduced, so that the picture stays visible.
    Values are clipped at the 20 % and 99.5 % quantiles of the map, so a single extreme pixel does
    not dim the rest. A constant map is transparent. Of a signed map, the positive part is drawn:
    negative values count as 0, also for the quantiles.

    Parameters
    ----------
    explanation : result of an explainer's `explain`
    index : index of the image in the batch
    backdrop : (H', W', 3) uint8, the same view at another resolution, drawn instead of the
        model's input pixels; the map is resampled to it

    Raises
    ------
    ShapeError
        For an index outside the batch, or a backdrop that is not a picture.
    """
    picture = select_picture(explanation, index, backdrop)
    return blend(explanation.heat_map[index], picture)


def blend(heat_map: torch.Tensor, picture: Picture) -> Picture:
    """Blend a map (H, W) over a picture, as `overlay` does."""
    value = _scaled(_resampled(heat_map.clamp(min=0), picture.shape[:2]))
    alpha = _opacity(value)[..., None]
    mixed = (1 - alpha) * fade_picture(picture, 0.55, 0.9) + alpha * apply_palette(MAP, value)
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)


def _opacity(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the opacity of values in [0, 1]; its mean is at most `MEAN_OPACITY`."""
    alpha: NDArray[np.float64] = OPACITY * value**0.7
    return alpha * min(1.0, MEAN_OPACITY / max(float(alpha.mean()), 1e-9))


def is_signed(explanation: Explanation, index: int = 0) -> bool:
    """Return whether the map has a negative part, which is not drawn."""
    return bool((explanation.heat_map[index] < 0).any())


def select_picture(explanation: Explanation, index: int, backdrop: Picture | None) -> Picture:
    """Return the pixels to draw on, after checking `index` and `backdrop`."""
    count = len(explanation.heat_map)
    if not -count <= index < count:
        raise ShapeError(f"index: expected one of {count} images, got {index} — count from 0")
    if backdrop is None:
        return explanation.images.pixels[index]
    if backdrop.ndim != 3 or backdrop.shape[2] != 3 or backdrop.dtype != np.uint8:
        raise ShapeError(
            f"backdrop: expected (H, W, 3) of uint8, got {backdrop.shape} of {backdrop.dtype} — "
            "pass an RGB picture"
        )
    return backdrop


def _resampled(heat_map: torch.Tensor, size: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a map (H, W) at another size."""
    values = heat_map.detach().cpu().double()
    if tuple(values.shape) != tuple(size):
        values = F.interpolate(values[None, None], size=size[:2], mode="bilinear")[0, 0]
    return values.numpy()


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale values to [0, 1] between the two quantiles; return 0 if the quantiles are equal."""
    low, high = np.quantile(values, [FLOOR, CEILING])
    if high - low <= 1e-12 * max(abs(high), 1e-300):
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1)
