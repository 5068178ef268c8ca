"""Feature vectors of patches: keys of two layers, colours, and SIFT descriptors.

Keys of the first layer represent colours and textures, keys of the middle layer represent
objects. Colours and descriptors add what the keys may not contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from ..keypoints import Keypoints

DARK = 16.0  # added to a mean before its logarithm; pixels are in [0, 255]
FLAT = 4.0  # added to a standard deviation before its logarithm
COLOURS = 4
DESCRIPTOR = 128


def features(record: AttentionRecord, pixels: np.ndarray, keypoints: Sequence[Keypoints]) -> Tensor:
    """Return vectors (B, P, E) of the patches of a record of the first and the middle layer.

    Parameters
    ----------
    record : of B images
    pixels : (B, H, W, 3) uint8
    keypoints : one per image, with descriptors
    """
    sites = [record.sites[0], record.middle_layer()]
    keys = [_keys(site, record.grid).float().cpu() for site in sites]
    return torch.cat(
        [*keys, colours(pixels, record.grid), descriptors(keypoints, record.grid)], dim=-1
    )


def blocks_of(width: int) -> tuple[slice, slice, slice, slice]:
    """Return the slices of (…, E): keys of the first and middle layer, colours, descriptors."""
    keys = (width - COLOURS - DESCRIPTOR - 1) // 2
    ends = (0, keys, 2 * keys, 2 * keys + COLOURS, width)
    first, middle, colour, sift = (slice(a, b) for a, b in pairwise(ends))
    return first, middle, colour, sift


def _keys(site: SiteRecord, grid: PatchGrid) -> Tensor:
    """Return the unit keys of a layer on the patch grid: (B, P, H D)."""
    if site.key is None:
        raise UnsupportedModelError(
            f"{site.site}: expected an attention layer whose keys can be recorded, got a layer "
            "with its own softmax — the search for cues needs keys"
        )
    channels = site.key.to(site.dtype).transpose(-2, -1).flatten(1, 2)  # (G, H D, Nk)
    keys = grid.drop_prefix(site.keys_at.to_grid(channels)).transpose(-2, -1)
    return F.normalize(keys, dim=-1)


def colours(pixels: np.ndarray, grid: PatchGrid) -> Tensor:
    """Return log red and blue against green, log lightness and log contrast: (B, P, 4)."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    mean = _patch_mean(values, grid)
    grey = values.mean(dim=1, keepdim=True)
    square = _patch_mean(grey.square(), grid)
    spread = (square - _patch_mean(grey, grid).square()).clamp(min=0).sqrt()
    logs = (mean + DARK).log()
    red, green, blue = logs.unbind(dim=1)
    columns = [red - green, blue - green, logs.mean(dim=1), (spread[:, 0] + FLAT).log()]
    return torch.stack(columns, dim=-1).flatten(1, 2)


def _patch_mean(values: Tensor, grid: PatchGrid) -> Tensor:
    """Return the mean of (B, C, H, W) over each patch: (B, C, h, w)."""
    if not grid.is_partial:
        return F.adaptive_avg_pool2d(values, grid.shape)
    return grid.fold(grid.pool(values.flatten(0, 1))).unflatten(0, values.shape[:2])


def descriptors(keypoints: Sequence[Keypoints], grid: PatchGrid) -> Tensor:
    """Return the mean RootSIFT descriptor of each patch and log(1 + keypoints): (B, P, 129)."""
    values = torch.zeros(len(keypoints), grid.patches, DESCRIPTOR + 1, device="cpu")
    for row, image_keypoints in zip(values, keypoints, strict=True):
        patches = grid.patch_of(image_keypoints.xy)
        inside = patches >= 0
        if image_keypoints.descriptor is None or not bool(inside.any()):
            continue
        root = F.normalize(image_keypoints.descriptor[inside].float(), p=1, dim=1).sqrt()
        row.index_add_(0, patches[inside], F.pad(root, (0, 1), value=1.0))
    values[..., :DESCRIPTOR] /= values[..., DESCRIPTOR:].clamp(min=1)
    values[..., DESCRIPTOR] = values[..., DESCRIPTOR].log1p()
    return values
