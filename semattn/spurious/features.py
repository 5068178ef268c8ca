"""Patches as vectors: what the model knows of them, their colour, and their keypoints.

The keys of the first layer know colours and textures, those half way up know things; a layer that
makes its own softmax keeps no keys. Colour and SIFT descriptors say what a model's keys may hide.
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

DARK = 16.0  # added to a mean before its logarithm, of 255
FLAT = 4.0  # the same of a standard deviation
COLOURS = 4
DESCRIPTOR = 128


def features(taken: AttentionRecord, pixels: np.ndarray, found: Sequence[Keypoints]) -> Tensor:
    """Vectors (B, P, E) of the patches of a record that has the first layer and the middle one.

    Parameters
    ----------
    taken : of B images
    pixels : (B, H, W, 3) uint8
    found : their keypoints, with descriptors
    """
    sites = [taken.sites[0], taken.half_way()]
    keys = [_keys(one, taken.grid).float().cpu() for one in sites]
    return torch.cat([*keys, colours(pixels, taken.grid), descriptors(found, taken.grid)], dim=-1)


def blocks_of(width: int) -> tuple[slice, slice, slice, slice]:
    """Where keys of the first layer, of the middle one, colours and descriptors are in (…, E)."""
    keys = (width - COLOURS - DESCRIPTOR - 1) // 2
    ends = (0, keys, 2 * keys, 2 * keys + COLOURS, width)
    first, middle, colour, sift = (slice(a, b) for a, b in pairwise(ends))
    return first, middle, colour, sift


def _keys(one: SiteRecord, grid: PatchGrid) -> Tensor:
    if one.key is None:
        raise UnsupportedModelError(
            f"{one.site}: expected a layer that keeps its keys, got one that makes its own softmax "
            "— the search for cues needs keys"
        )
    channels = one.key.to(one.dtype).transpose(-2, -1).flatten(1, 2)  # (G, H D, Nk)
    keys = grid.drop_prefix(one.keys_at.collect(channels)).transpose(-2, -1)
    return F.normalize(keys, dim=-1)


def colours(pixels: np.ndarray, grid: PatchGrid) -> Tensor:
    """Red and blue against green, lightness and contrast, on log scales: (B, P, 4)."""
    values = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float()
    mean = _patch_mean(values, grid)
    grey = values.mean(dim=1, keepdim=True)
    square = _patch_mean(grey.square(), grid)
    spread = (square - _patch_mean(grey, grid).square()).clamp(min=0).sqrt()
    logs = (mean + DARK).log()
    red, green, blue = logs.unbind(dim=1)
    made = [red - green, blue - green, logs.mean(dim=1), (spread[:, 0] + FLAT).log()]
    return torch.stack(made, dim=-1).flatten(1, 2)


def _patch_mean(values: Tensor, grid: PatchGrid) -> Tensor:
    """Mean of (B, C, H, W) over each patch: (B, C, h, w)."""
    if not grid.is_partial:
        return F.adaptive_avg_pool2d(values, grid.shape)
    return grid.fold(grid.pool(values.flatten(0, 1))).unflatten(0, values.shape[:2])


def descriptors(found: Sequence[Keypoints], grid: PatchGrid) -> Tensor:
    """The mean RootSIFT descriptor of each patch and log(1 + keypoints): (B, P, 129)."""
    made = torch.zeros(len(found), grid.patches, DESCRIPTOR + 1, device="cpu")
    for row, one in zip(made, found, strict=True):
        where = grid.patch_of(one.xy)
        inside = where >= 0
        if one.descriptor is None or not bool(inside.any()):
            continue
        root = F.normalize(one.descriptor[inside].float(), p=1, dim=1).sqrt()
        row.index_add_(0, where[inside], F.pad(root, (0, 1), value=1.0))
    made[..., :DESCRIPTOR] /= made[..., DESCRIPTOR:].clamp(min=1)
    made[..., DESCRIPTOR] = made[..., DESCRIPTOR].log1p()
    return made
