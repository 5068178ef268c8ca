"""Densities made of keypoints: how much structure lies in each patch, by several measures."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semattn.keypoints import Keypoints

from .scene import Scene, register_density

SPREAD = 1.0  # standard deviation of `gaussian`, in sizes (diameters) of the keypoint
RIVALS = 3  # how many of the most similar keypoints `distinct` compares with
RIVAL_DISTANCE = 28.0  # pixels; nearer keypoints show the same thing and are no rivals
CENTER, SURROUND = 1.0, 4.0  # standard deviations of `surround`, patches


@register_density("count", needs=("keypoints",))
def count(scene: Scene) -> Tensor:
    """Number of keypoints in each patch: w_k = 1.

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
    return scene.scatter(lambda found: torch.ones_like(found.response))


@register_density("response", needs=("keypoints",))
def response(scene: Scene) -> Tensor:
    """Sum of the responses: w_k = r_k."""
    return scene.scatter(lambda found: found.response)


@register_density("size", needs=("keypoints",))
def size(scene: Scene) -> Tensor:
    """Sum of the sizes in pixels, so that large structure counts more: w_k = sigma_k."""
    return scene.scatter(lambda found: found.size)


@register_density("gaussian", needs=("keypoints",))
def gaussian(scene: Scene) -> Tensor:
    """Each keypoint's unit of mass, spread by a Gaussian whose width is the keypoint's size.

    The Gaussian is integrated over the patches exactly, and what falls beyond the grid is given
    back to the patches in proportion: the sum of s is the number of keypoints on the grid.
    """
    grid = scene.grid
    s = torch.zeros(len(scene), grid.patches, dtype=torch.float64, device="cpu")
    for row, found in zip(s, scene.found(), strict=True):
        inside = grid.patch_of(found.xy) >= 0
        width = SPREAD * found.size[inside].to(torch.float64)
        x, y = found.xy[inside].to(torch.float64).unbind(-1)
        columns = _mass(x - grid.origin[1], width, grid.shape[1], grid.cell[1])
        rows = _mass(y - grid.origin[0], width, grid.shape[0], grid.cell[0])
        row += (rows.mT @ columns).flatten()
    return s


@register_density("distinct", needs=("keypoints", "descriptors"))
def distinct(scene: Scene) -> Tensor:
    """Sum of w_k = rank^2 of how unlike others a keypoint is, so that texture counts little.

    Unlikeness is the mean distance of RootSIFT descriptors (Arandjelovic and Zisserman, CVPR 2012)
    to the 3 most similar keypoints farther than 28 pixels away; ranks go from 1/K to 1, ties share
    their mean. Where there are fewer than 3 such keypoints, those count; where there is none, the
    keypoint ranks highest.
    """
    return scene.scatter(distinctness)


@register_density("distinct-size", needs=("keypoints", "descriptors"))
def distinct_size(scene: Scene) -> Tensor:
    """Sum of distinctness times size: large structure that does not repeat."""
    return scene.scatter(lambda found: distinctness(found) * found.size)


@register_density("surround", needs=("keypoints",))
def surround(scene: Scene) -> Tensor:
    """Where the count stands out: blurred by 1 patch, minus blurred by 4, clipped at 0."""
    return _stands_out(count(scene), scene.grid.shape)


@register_density("distinct-size-surround", needs=("keypoints", "descriptors"))
def distinct_size_surround(scene: Scene) -> Tensor:
    """Where `distinct_size` stands out of its surround."""
    return _stands_out(distinct_size(scene), scene.grid.shape)


def distinctness(found: Keypoints) -> Tensor:
    """W (K,) in (0, 1] for `distinct`."""
    if found.descriptor is None:
        raise ValueError(
            "keypoints: expected descriptors for a distinct density, got none — "
            "detect(pixels, descriptors=True)"
        )
    descriptor = found.descriptor.to(torch.float64)
    root = (descriptor / descriptor.sum(1, keepdim=True).clamp(min=1e-12)).sqrt()
    xy = found.xy.to(torch.float64)
    unlike = torch.empty(len(found), dtype=torch.float64, device="cpu")
    for part in torch.arange(len(found), device="cpu").split(1024):  # never K x K at once
        distance = (2 - 2 * root[part] @ root.mT).clamp(min=0).sqrt()  # both are of length 1
        near = torch.cdist(xy[part], xy) <= RIVAL_DISTANCE
        distance[near] = torch.inf
        rivals = distance.topk(min(RIVALS, len(found)), largest=False).values
        rivals[:, 1:][rivals[:, 1:].isinf()] = torch.nan  # fewer rivals: the mean of those
        unlike[part] = rivals.nanmean(1).mul(1e6).round()  # equal ones tie in spite of rounding
    _, place, ties = unlike.unique(return_inverse=True, return_counts=True)
    ties = ties.to(torch.float64)
    rank = (ties.cumsum(0) - (ties - 1) / 2)[place]
    return (rank / max(len(found), 1)) ** 2


def _mass(center: Tensor, width: Tensor, cells: int, cell: float) -> Tensor:
    """Mass (K, cells) of Gaussians in each of a row of cells; each sums to 1."""
    edges = torch.arange(cells + 1, dtype=torch.float64, device="cpu") * cell - 0.5
    below = torch.special.ndtr((edges - center[:, None]) / width[:, None].clamp(min=1e-6))
    mass = below.diff(dim=1)
    return mass / mass.sum(1, keepdim=True)


def _stands_out(s: Tensor, shape: tuple[int, int]) -> Tensor:
    """Centre minus surround of s (B, P), >= 0."""
    picture = s.unflatten(-1, shape)
    centre, around = (
        _blur(shape[0], width) @ picture @ _blur(shape[1], width).mT for width in (CENTER, SURROUND)
    )
    # What rounding leaves of an even density is nothing.
    noise = 1e-12 * picture.amax((-2, -1), keepdim=True)
    difference = centre - around
    return torch.where(difference > noise, difference, 0).flatten(1)


def _blur(length: int, width: float) -> Tensor:
    """Matrix (length, length) of a Gaussian blur that mirrors at the borders and keeps the sum."""
    at = torch.arange(length, dtype=torch.float64, device="cpu")
    reach = math.ceil(8 * width / length) + 1
    images = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
    images = images[:, None, None] * 2 * length
    away = torch.cat([images + at - at[:, None], images - 1 - at - at[:, None]])
    weights = torch.exp(-((away / width) ** 2) / 2).sum(0)
    return weights / weights.sum(1, keepdim=True)
