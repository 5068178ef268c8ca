"""Removal of patches: baselines that fill removed patches, and the order of removal.

A baseline is a function from the images (B, C, H, W) to a fill. A fill takes `index` (N,), the
source image of each perturbed image, and `keep` (N, 1, H, W), 1 for pixels that are kept. It
returns the perturbed images (N, C, H, W).
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

baselines: Registry[Any] = Registry("baseline")
"""Mapping of names to functions from images (B, C, H, W) and the black value (C,) to a `Fill`."""

BLUR_SIGMA = 0.05  # standard deviation of the blur, relative to the longer side of the image


def fill_of(baseline: Any, images: Tensor, black: Sequence[float] | Tensor | None = None) -> Fill:
    """Return the fill of a baseline given by name, tensor or function.

    Parameters
    ----------
    baseline : name in `baselines`; a replacement tensor that broadcasts to (B, C, H, W); or a
        function as in the registry
    images : model inputs (B, C, H, W)
    black : (C,), value of a black pixel in the model's input, for the baseline "black"

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or for "black" without its value.
    ShapeError
        If a tensor does not broadcast to the images.
    """
    if isinstance(baseline, Tensor):
        try:
            return _replace_with(images, baseline.to(images).expand_as(images))
        except RuntimeError as error:
            raise ShapeError(
                f"baseline: expected a tensor that broadcasts to {tuple(images.shape)}, got "
                f"{tuple(baseline.shape)} — pass (B, C, H, W) or (C, 1, 1)"
            ) from error
    value = None if black is None else as_tensor(black).to(images)
    fill: Fill = baselines.resolve(baseline)(images, value)
    return fill


@baselines.register("blur")
def blur(images: Tensor, black: Tensor | None = None) -> Fill:
    """Replace patches by the blurred image (Gaussian, 5 % of the longer side)."""
    sigma = BLUR_SIGMA * max(images.shape[-2:])
    blurred = images
    for axis in (-2, -1):
        radius = min(round(3 * sigma), images.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
        weights = (-0.5 * (offsets / sigma) ** 2).exp()
        weights = (weights / weights.sum()).to(images)
        pad = (0, 0, radius, radius) if axis == -2 else (radius, radius, 0, 0)
        kernel = weights[:, None] if axis == -2 else weights[None]
        kernel = kernel.expand(images.shape[1], 1, *kernel.shape)
        blurred = F.conv2d(F.pad(blurred, pad, mode="reflect"), kernel, groups=images.shape[1])
    return _replace_with(images, blurred)


@baselines.register("mean")
def mean(images: Tensor, black: Tensor | None = None) -> Fill:
    """Replace patches by the mean color of the image."""
    return _replace_with(images, images.mean(dim=(2, 3), keepdim=True).expand_as(images))


@baselines.register("black")
def black(images: Tensor, black: Tensor | None = None) -> Fill:
    """Replace patches by black; the value of black in the model's input is required."""
    if black is None or len(black) != images.shape[1]:
        raise ValueError(
            f"black: expected the value of a black pixel in {images.shape[1]} input channels, "
            f"got {None if black is None else len(black)} — pass -mean / std"
        )
    return _replace_with(images, black[:, None, None].expand_as(images))


@baselines.register("inpaint")
def inpaint(images: Tensor, black: Tensor | None = None) -> Fill:
    """Inpaint patches from the remaining pixels (push-pull, Gortler et al. 1996)."""

    def fill(index: Tensor, keep: Tensor) -> Tensor:
        weights = keep.to(images.dtype)
        image = images[index]
        has_visible = weights.amax(dim=(2, 3), keepdim=True) > 0
        filled = _push_pull(image * weights, weights)
        filled = torch.where(has_visible, filled, image.mean(dim=(2, 3), keepdim=True))
        return torch.where(keep > 0, image, filled)

    return fill


def _push_pull(sums: Tensor, weights: Tensor) -> Tensor:
    """Interpolate weighted `sums` (N, C, H, W) with `weights` (N, 1, H, W) over all gaps."""
    values = sums / weights.clamp(min=1e-12)
    height, width = sums.shape[-2:]
    if height == 1 and width == 1:
        return values
    pad = (0, width % 2, 0, height % 2)
    coarse = F.avg_pool2d(F.pad(sums, pad), 2)
    coarse_weights = F.avg_pool2d(F.pad(weights, pad), 2)
    confidence = coarse_weights.clamp(max=0.25) * 4  # full confidence from a weight of 1/4
    coarse_filled = _push_pull(coarse / coarse_weights.clamp(min=1e-12) * confidence, confidence)
    upsampled = F.interpolate(coarse_filled, scale_factor=2, mode="bilinear", align_corners=False)
    upsampled = upsampled[..., :height, :width]
    return weights * values + (1 - weights) * upsampled


def _replace_with(images: Tensor, replacement: Tensor) -> Fill:
    def fill(index: Tensor, keep: Tensor) -> Tensor:
        return torch.where(keep > 0, images[index], replacement[index])

    return fill


def ranks(scores: Tensor, seed: int = 0) -> Tensor:
    """Return the rank (B, P) of each patch, 0 for the highest score; ties are ordered by the seed.

    Raises
    ------
    ValueError
        If a score is NaN or infinite.

    Examples
    --------
    >>> ranks(torch.tensor([[0.1, 0.9, 0.5]])).tolist()
    [[2, 0, 1]]
    """
    if not bool(scores.isfinite().all()):
        raise ValueError(
            "scores: expected finite numbers, got NaN or infinity — replace them first"
        )
    num_patches = scores.shape[-1]
    rng = torch.Generator().manual_seed(seed)
    permutation = torch.randperm(num_patches, generator=rng, device="cpu")
    permutation = permutation.to(scores.device)
    order = permutation[scores[:, permutation].sort(dim=1, descending=True, stable=True).indices]
    positions = torch.arange(num_patches, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, positions)


def kept_pixels(keep: Tensor, grid: PatchGrid) -> Tensor:
    """Return the kept pixels (N, 1, H, W) bool of kept patches (N, P) and of uncovered areas."""
    removed = grid.upsample(1 - keep.float(), mode="nearest-exact")[:, None]
    return removed <= 0.5
