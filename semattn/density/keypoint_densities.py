"""Keypoint densities: measures of the amount of structure in each patch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semattn.keypoints import Keypoints

from .scene import Scene, register_density

GAUSSIAN_SCALE = 1.0  # standard deviation of `gaussian`, relative to the keypoint diameter
MAX_RIVALS = 3  # number of most similar keypoints that `distinct` compares with
MIN_RIVAL_DISTANCE = 28.0  # pixels; closer keypoints show the same structure and are ignored
CENTER_SIGMA, SURROUND_SIGMA = 1.0, 4.0  # standard deviations of `surround`, patches


@register_density("count", needs=("keypoints",))
def count(scene: Scene) -> Tensor:
    """Count the keypoints in each patch: w_k = 1.

    Examples
    --------
    >>> import numpy as np
    >>> from semattn.grid import PatchGrid
    >>> from semattn.keypoints import detect
    >>> pixels = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    >>> pixels[0, 12:16, 44:48] = 255
    >>> scene = Scene(pixels, detect(pixels), PatchGrid((2, 2), (64, 64), (32, 32)))
    >>> count(scene).tolist()
    [[0.0, 1.0, 0.0, 0.0]]
    """
    return scene.scatter(lambda keypoints: torch.ones_like(keypoints.response))


@register_density("response", needs=("keypoints",))
def response(scene: Scene) -> Tensor:
    """Sum the keypoint responses: w_k = r_k."""
    return scene.scatter(lambda keypoints: keypoints.response)


@register_density("size", needs=("keypoints",))
def size(scene: Scene) -> Tensor:
    """Sum the keypoint sizes in pixels, so that large structures count more: w_k = sigma_k."""
    return scene.scatter(lambda keypoints: keypoints.size)


@register_density("gaussian", needs=("keypoints",))
def gaussian(scene: Scene) -> Tensor:
    """Distribute the unit mass of each keypoint by a Gaussian of the keypoint's size.

    The Gaussian is integrated exactly over the patches and normalised to the grid: the sum of s is
    the number of keypoints on the grid.
    """
    grid = scene.grid
    s = torch.zeros(len(scene), grid.patches, dtype=torch.float64, device="cpu")
    for row, keypoints in zip(s, scene.require_keypoints(), strict=True):
        inside = grid.patch_of(keypoints.xy) >= 0
        width = GAUSSIAN_SCALE * keypoints.size[inside].to(torch.float64)
        x, y = keypoints.xy[inside].to(torch.float64).unbind(-1)
        columns = _gaussian_mass(x - grid.origin[1], width, grid.shape[1], grid.cell[1])
        rows = _gaussian_mass(y - grid.origin[0], width, grid.shape[0], grid.cell[0])
        row += (rows.mT @ columns).flatten()
    return s


@register_density("distinct", needs=("keypoints", "descriptors"))
def distinct(scene: Scene) -> Tensor:
    """Sum w_k = rank^2 of the dissimilarity to other keypoints, so that texture counts little.

    Dissimilarity is the mean distance of RootSIFT descriptors (Arandjelovic and Zisserman, CVPR
    2012) to the 3 most similar keypoints farther than 28 pixels away. Ranks go from 1/K to 1; ties
    get their mean rank. With fewer than 3 such keypoints, the mean is over those; with none, the
    keypoint ranks highest.
    """
    return scene.scatter(distinctness)


@register_density("distinct-size", needs=("keypoints", "descriptors"))
def distinct_size(scene: Scene) -> Tensor:
    """Sum distinctness times size, high for large structures that do not repeat."""
    return scene.scatter(lambda keypoints: distinctness(keypoints) * keypoints.size)


@register_density("surround", needs=("keypoints",))
def surround(scene: Scene) -> Tensor:
    """Compute the count blurred by 1 patch minus the count blurred by 4, clipped at 0."""
    return _center_surround(count(scene), scene.grid.shape)


@register_density("distinct-size-surround", needs=("keypoints", "descriptors"))
def distinct_size_surround(scene: Scene) -> Tensor:
    """Compute the center-surround difference of `distinct_size`."""
    return _center_surround(distinct_size(scene), scene.grid.shape)


def distinctness(keypoints: Keypoints) -> Tensor:
    """Compute the weights w (K,) in (0, 1] of `distinct`."""
    if keypoints.descriptor is None:
        raise ValueError(
            "keypoints: expected descriptors for a distinct density, got none — "
            "use detect(pixels, descriptors=True)"
        )
    descriptor = keypoints.descriptor.to(torch.float64)
    root = (descriptor / descriptor.sum(1, keepdim=True).clamp(min=1e-12)).sqrt()
    xy = keypoints.xy.to(torch.float64)
    dissimilarity = torch.empty(len(keypoints), dtype=torch.float64, device="cpu")
    for chunk in torch.arange(len(keypoints), device="cpu").split(1024):  # bounds the memory
        distance = (2 - 2 * root[chunk] @ root.mT).clamp(min=0).sqrt()  # unit vectors
        is_near = torch.cdist(xy[chunk], xy) <= MIN_RIVAL_DISTANCE
        distance[is_near] = torch.inf
        rivals = distance.topk(min(MAX_RIVALS, len(keypoints)), largest=False).values
        rivals[:, 1:][rivals[:, 1:].isinf()] = torch.nan  # mean over the available rivals
        dissimilarity[chunk] = rivals.nanmean(1).mul(1e6).round()  # ties despite rounding errors
    _, group, group_sizes = dissimilarity.unique(return_inverse=True, return_counts=True)
    group_sizes = group_sizes.to(torch.float64)
    rank = (group_sizes.cumsum(0) - (group_sizes - 1) / 2)[group]
    return (rank / max(len(keypoints), 1)) ** 2


def _gaussian_mass(center: Tensor, width: Tensor, num_cells: int, cell_size: float) -> Tensor:
    """Return the mass (K, num_cells) of Gaussians in a row of cells, normalised to sum 1."""
    edges = torch.arange(num_cells + 1, dtype=torch.float64, device="cpu") * cell_size - 0.5
    cumulative = torch.special.ndtr((edges - center[:, None]) / width[:, None].clamp(min=1e-6))
    mass = cumulative.diff(dim=1)
    return mass / mass.sum(1, keepdim=True)


def _center_surround(s: Tensor, shape: tuple[int, int]) -> Tensor:
    """Compute center minus surround of s (B, P), clipped at 0."""
    density_map = s.unflatten(-1, shape)
    center_blur, surround_blur = (
        _blur(shape[0], width) @ density_map @ _blur(shape[1], width).mT
        for width in (CENTER_SIGMA, SURROUND_SIGMA)
    )
    # Rounding errors of a uniform density count as 0.
    tolerance = 1e-12 * density_map.amax((-2, -1), keepdim=True)
    difference = center_blur - surround_blur
    return torch.where(difference > tolerance, difference, 0).flatten(1)


def _blur(length: int, width: float) -> Tensor:
    """Return the matrix (length, length) of a sum-preserving Gaussian blur, borders mirrored."""
    positions = torch.arange(length, dtype=torch.float64, device="cpu")
    num_mirrors = math.ceil(8 * width / length) + 1
    offsets = torch.arange(-num_mirrors, num_mirrors + 1, dtype=torch.float64, device="cpu")
    offsets = offsets[:, None, None] * 2 * length
    distance = torch.cat(
        [offsets + positions - positions[:, None], offsets - 1 - positions - positions[:, None]]
    )
    weights = torch.exp(-((distance / width) ** 2) / 2).sum(0)
    return weights / weights.sum(1, keepdim=True)
