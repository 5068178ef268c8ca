"""Masks of the places of marks: pixels and patches that show them, and their inpainting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...grid import PatchGrid
from ...images import Preprocessing
from ...keypoints.regions import inpaint, outline_mask
from .template import Region

MIN_COVERED = 0.1  # part of a patch from which on it shows the mark


def region_masks(regions: Sequence[Sequence[Region]], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels (n, H, W) of bool of the regions of each image."""
    return np.stack(
        [outline_mask([region.outline for region in of_image], size) for of_image in regions]
    )


def patches_of_masks(masks: np.ndarray, grid: PatchGrid) -> np.ndarray:
    """Return the patches (n, P) of which a mask (n, H, W) covers at least a tenth."""
    covered = grid.pool(torch.from_numpy(masks.astype(np.float32)))
    return covered.numpy() >= MIN_COVERED


def erase_pixels(pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return images (n, H, W, 3) uint8 with the pixels of masks (n, H, W) inpainted."""
    return np.stack([inpaint(image, mask) for image, mask in zip(pixels, masks, strict=True)])


def replace_changed(
    inputs: Tensor, pixels: np.ndarray, changed: np.ndarray, preprocessing: Preprocessing
) -> Tensor:
    """Return inputs (B, C, H, W) with new values where the pixels (B, H, W, 3) were changed."""
    is_changed = torch.from_numpy((pixels != changed).any(axis=-1))[:, None].to(inputs.device)
    return torch.where(is_changed, preprocessing.inputs(changed).to(inputs), inputs)
