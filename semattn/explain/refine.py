"""Refinements of a pixel map, so that it follows the edges of the image.

The map, interpolated from patches, is averaged over superpixels, or smoothed by a colour guided
filter (He et al., 2010). A refinement sharpens any map, so a comparison must apply it to all
methods or to none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid import PatchGrid
from ..utils.registry import Registry

refinements: Registry[Callable[[Tensor, np.ndarray, PatchGrid], Tensor]] = Registry("refine")

SEGMENTS = (50, 100, 250, 500)
RADIUS = 24  # pixels
EPSILON = 1e-4  # of squared intensity, on a scale of 1


@refinements.register("none")
def unchanged(heat_map: Tensor, pixels: np.ndarray, grid: PatchGrid) -> Tensor:
    """Return the map (B,H,W) as it was interpolated."""
    return heat_map


@refinements.register("superpixels")
def superpixels(heat_map: Tensor, pixels: np.ndarray, grid: PatchGrid) -> Tensor:
    """Average the map (B,H,W) over SLIC superpixels, and over four superpixel sizes."""
    return _refine_covered_part(_average_superpixels, heat_map, pixels, grid)


def _average_superpixels(smooth: Tensor, pixels: np.ndarray) -> Tensor:
    from skimage.segmentation import slic

    refined = torch.zeros_like(smooth)
    for image, values, refined_image in zip(pixels, smooth, refined, strict=True):
        for segments in SEGMENTS:
            labels = torch.from_numpy(
                slic(image, n_segments=segments, compactness=10, start_label=0, channel_axis=-1)
            ).to(values.device)
            index = labels.flatten().long()
            size = torch.bincount(index).clamp(min=1)
            sums = values.new_zeros(len(size)).index_add_(0, index, values.flatten())
            refined_image += (sums / size)[index].view_as(refined_image) / len(SEGMENTS)
    return refined


@refinements.register("guided")
def guided(heat_map: Tensor, pixels: np.ndarray, grid: PatchGrid) -> Tensor:
    """Apply a colour guided filter to the map (B,H,W), clipped to the range of the map.

    In every window the map is fitted as a linear function of the three colours; the fits are
    averaged.
    """
    return _refine_covered_part(_filter_guided, heat_map, pixels, grid)


def _filter_guided(smooth: Tensor, pixels: np.ndarray) -> Tensor:
    top = smooth.amax(dim=(1, 2), keepdim=True)
    source = (smooth / top.clamp(min=torch.finfo(smooth.dtype).tiny))[:, None]
    if source.device.type == "cpu":  # some other devices have no float64
        source = source.double()
    guide = torch.from_numpy(pixels).to(source).permute(0, 3, 1, 2) / 255
    mean_guide, mean_source = _box(guide), _box(source)
    covariance = _box(guide * source) - mean_guide * mean_source
    products = guide[:, :, None] * guide[:, None]
    variance = _box(products.flatten(1, 2)).unflatten(1, (3, 3))
    variance = variance - mean_guide[:, :, None] * mean_guide[:, None]
    system = variance.permute(0, 3, 4, 1, 2) + EPSILON * torch.eye(
        3, dtype=source.dtype, device=source.device
    )
    slope = torch.linalg.solve(system, covariance.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    offset = mean_source - (slope * mean_guide).sum(dim=1, keepdim=True)
    refined = (_box(slope) * guide).sum(dim=1, keepdim=True) + _box(offset)
    return refined[:, 0].clamp(0, 1).to(smooth.dtype) * top


def _refine_covered_part(
    refine: Callable[[Tensor, np.ndarray], Tensor],
    smooth: Tensor,
    pixels: np.ndarray,
    grid: PatchGrid,
) -> Tensor:
    """Refine a map (B, H, W) on the pixels that the patches cover; the others stay 0."""
    if not grid.is_partial:
        return refine(smooth, pixels)
    rows, columns = grid.visible_part
    refined = torch.zeros_like(smooth)
    covered = refine(smooth[:, rows, columns], np.ascontiguousarray(pixels[:, rows, columns]))
    refined[:, rows, columns] = covered
    return refined


def _box(values: Tensor) -> Tensor:
    """Average over windows of 2 RADIUS + 1 pixels per side, cut at the border: (B,C,H,W)."""
    size = 2 * RADIUS + 1
    rows = F.avg_pool2d(values, (size, 1), 1, (RADIUS, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, size), 1, (0, RADIUS), count_include_pad=False)
