"""Patches taken away: what stands in their place, and which go first.

A baseline is a function from the images (B, C, H, W) to a fill; a fill takes `index` (N,), which
image each of N perturbed ones is made of, and `keep` (N, 1, H, W), 1 where the image stays, and
gives the perturbed images (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..grid import PatchGrid
from ..utils.registry import Registry
from ..utils.validation import as_tensor

Fill = Callable[[Tensor, Tensor], Tensor]

baselines = Registry("baseline")
"""Name to a function from images (B, C, H, W) and the value of black (C,) to a `Fill`."""

SIGMA = 0.05  # of the blur, in the longer side of the image


def fill_of(baseline: Any, images: Tensor, black: Sequence[float] | Tensor | None = None) -> Fill:
    """The fill of a baseline by name, tensor or function.

    Parameters
    ----------
    baseline : name in `baselines`; a tensor that images (B, C, H, W) can be replaced by; or a
        function as those of the registry
    images : (B, C, H, W), as the model takes them
    black : (C,), what a black pixel is in the model's input, for the baseline of that name

    Raises
    ------
    ValueError, TypeError
        For an unknown name; for "black" without its value.
    ShapeError
        For a tensor that does not fit.
    """
    if isinstance(baseline, Tensor):
        try:
            return _pasted(images, baseline.to(images).expand_as(images))
        except RuntimeError as error:
            raise ShapeError(
                f"baseline: expected a tensor that fits {tuple(images.shape)}, got "
                f"{tuple(baseline.shape)} — give (B, C, H, W) or (C, 1, 1)"
            ) from error
    value = None if black is None else as_tensor(black).to(images)
    fill: Fill = baselines.ensure(baseline)(images, value)
    return fill


@baselines.register("blur")
def blur(images: Tensor, black: Tensor | None = None) -> Fill:
    """The image blurred: Gaussian, of 5 % of its longer side."""
    sigma = SIGMA * max(images.shape[-2:])
    soft = images
    for axis in (-2, -1):
        reach = min(round(3 * sigma), images.shape[axis] - 1)
        at = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
        weights = (-0.5 * (at / sigma) ** 2).exp()
        weights = (weights / weights.sum()).to(images)
        pad = (0, 0, reach, reach) if axis == -2 else (reach, reach, 0, 0)
        kernel = weights[:, None] if axis == -2 else weights[None]
        kernel = kernel.expand(images.shape[1], 1, *kernel.shape)
        soft = F.conv2d(F.pad(soft, pad, mode="reflect"), kernel, groups=images.shape[1])
    return _pasted(images, soft)


@baselines.register("mean")
def mean(images: Tensor, black: Tensor | None = None) -> Fill:
    """The mean colour of the image."""
    return _pasted(images, images.mean(dim=(2, 3), keepdim=True).expand_as(images))


@baselines.register("black")
def black(images: Tensor, black: Tensor | None = None) -> Fill:
    """Black; what that is in the model's input must be said."""
    if black is None or len(black) != images.shape[1]:
        raise ValueError(
            f"black: expected what a black pixel is in {images.shape[1]} channels of the input, "
            f"got {None if black is None else len(black)} — give -mean / std"
        )
    return _pasted(images, black[:, None, None].expand_as(images))


@baselines.register("inpaint")
def inpaint(images: Tensor, black: Tensor | None = None) -> Fill:
    """What is left of the image, drawn together over the gap (push-pull, Gortler et al. 1996)."""

    def fill(index: Tensor, keep: Tensor) -> Tensor:
        kept = keep.to(images.dtype)
        image = images[index]
        known = kept.amax(dim=(2, 3), keepdim=True) > 0
        drawn = _push_pull(image * kept, kept)
        drawn = torch.where(known, drawn, image.mean(dim=(2, 3), keepdim=True))
        return torch.where(keep > 0, image, drawn)

    return fill


def _push_pull(sums: Tensor, known: Tensor) -> Tensor:
    """`sums` (N, C, H, W) of what is known, by how much `known` (N, 1, H, W), without gaps."""
    here = sums / known.clamp(min=1e-12)
    height, width = sums.shape[-2:]
    if height == 1 and width == 1:
        return here
    pad = (0, width % 2, 0, height % 2)
    coarse = F.avg_pool2d(F.pad(sums, pad), 2)
    share = F.avg_pool2d(F.pad(known, pad), 2)
    sure = share.clamp(max=0.25) * 4  # a quarter known is known
    below = _push_pull(coarse / share.clamp(min=1e-12) * sure, sure)
    above = F.interpolate(below, scale_factor=2, mode="bilinear", align_corners=False)
    above = above[..., :height, :width]
    return known * here + (1 - known) * above


def _pasted(images: Tensor, other: Tensor) -> Fill:
    def fill(index: Tensor, keep: Tensor) -> Tensor:
        return torch.where(keep > 0, images[index], other[index])

    return fill


def ranks(scores: Tensor, seed: int = 0) -> Tensor:
    """Rank (B, P) of each patch, 0 for the greatest score; equals stand in an order by the seed.

    Raises
    ------
    ValueError
        For NaN or infinity among the scores.

    Examples
    --------
    >>> ranks(torch.tensor([[0.1, 0.9, 0.5]])).tolist()
    [[2, 0, 1]]
    """
    if not bool(scores.isfinite().all()):
        raise ValueError("scores: expected finite numbers, got NaN or infinity — clean them first")
    patches = scores.shape[-1]
    chance = torch.Generator().manual_seed(seed)
    mixed = torch.randperm(patches, generator=chance, device="cpu")
    mixed = mixed.to(scores.device)
    order = mixed[scores[:, mixed].sort(dim=1, descending=True, stable=True).indices]
    place = torch.arange(patches, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def kept_pixels(keep: Tensor, grid: PatchGrid) -> Tensor:
    """Which pixels stay, (N, 1, H, W) of bool, of patches (N, P) that do; those in no patch do."""
    gone = grid.upsample(1 - keep.float(), mode="nearest-exact")[:, None]
    return gone <= 0.5
