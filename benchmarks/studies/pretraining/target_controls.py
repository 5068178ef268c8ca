"""Controls of descriptor targets: functions of images that return targets (B, P, D).

Each removes one property of SIFT and keeps the others. All but raw pixels have mean square 1 in
each patch, as the targets of the library. Random numbers come from the generator that is passed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from semattn.masking import descriptor_targets
from semattn.masking.dense_descriptors import (
    LUMA,
    dense_rootsift,
    normalise_patches,
    patches_of,
    pool_channels,
    unit_vectors,
)

ORIENTATIONS = 8  # of SIFT
FILTERS, FILTER_SIDE = 8, 7  # random filters: as many as SIFT has orientations; about its support
FILTER_SEED = 0


def grey_of(images: Tensor) -> Tensor:
    """Return the luma (B, 1, H, W) of images (B, 3, H, W)."""
    return (images * torch.tensor(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def sobel_magnitude(images: Tensor) -> Tensor:
    """Return the gradient magnitude (B, 1, H, W) of Sobel's filters, with reflected borders."""
    row = torch.tensor([[1.0, 2.0, 1.0]]) / 8
    difference = torch.tensor([[-1.0, 0.0, 1.0]])
    kernels = torch.stack([row.T @ difference, difference.T @ row])[:, None]
    gradients = F.conv2d(F.pad(grey_of(images), (1, 1, 1, 1), mode="reflect"), kernels)
    return gradients.square().sum(1, keepdim=True).sqrt()


def gradient_energy(images: Tensor, patch_size: int) -> Tensor:
    """Return the sum (B, P) of the squared gradients of each patch, relative to the image's mean.

    As a loss weight it replaces the number of keypoints.
    """
    energy = patches_of(sobel_magnitude(images).square(), patch_size).sum(-1)
    return energy / energy.mean(1, keepdim=True).clamp(min=1e-12)


def shift_counts(counts: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return keypoint counts (B, P) moved cyclically by half of the patch rows and columns."""
    grid = counts.reshape(-1, *shape)
    return grid.roll((shape[0] // 2, shape[1] // 2), (1, 2)).reshape(counts.shape)


def sift(images: Tensor, patch_size: int, window: float, generator: torch.Generator) -> Tensor:
    """Return the library's SIFT targets, which the other controls change."""
    return descriptor_targets(images, "sift", patch_size=patch_size, window=window)


def raw_pixels(images: Tensor, patch_size: int, window: float, _: torch.Generator) -> Tensor:
    """Return pixels minus .5 in units of .25, without normalisation of the patch."""
    return (patches_of(images, patch_size) - 0.5) / 0.25


def sobel(images: Tensor, patch_size: int, window: float, _: torch.Generator) -> Tensor:
    """Return the Sobel magnitude of each pixel of the patch: gradients without orientations."""
    return _unit_mean_square(unit_vectors(patches_of(sobel_magnitude(images), patch_size)))


def blurred_pixels(images: Tensor, patch_size: int, window: float, _: torch.Generator) -> Tensor:
    """Return the normalised pixels of SIFT's window at the resolution that gives MAE's length."""
    factor = max(1, round(window / patch_size))  # 2 for a window of 16 pixels on patches of 8
    small = F.avg_pool2d(images, factor)
    step = patch_size // factor
    margin = (patch_size - step) // 2
    padded = F.pad(small, (margin, margin, margin, margin), mode="reflect")
    columns = F.unfold(padded, patch_size, stride=step).transpose(1, 2)  # channel first
    return normalise_patches(columns)


def random_filters(images: Tensor, patch_size: int, window: float, _: torch.Generator) -> Tensor:
    """Return RootSIFT of random filters: SIFT's window, cells and normalisation, no gradients.

    The eight oriented gradients are replaced by the positive responses of eight fixed filters of
    7x7 random values without mean.
    """
    chance = torch.Generator().manual_seed(FILTER_SEED)
    filters = torch.randn(FILTERS, 1, FILTER_SIDE, FILTER_SIDE, generator=chance)
    filters = filters - filters.mean((2, 3), keepdim=True)
    filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
    margin = FILTER_SIDE // 2
    padded = F.pad(grey_of(images), (margin,) * 4, mode="reflect")
    responses = F.conv2d(padded, filters)[:, :, 1:-1, 1:-1].clamp(min=0)
    return _unit_mean_square(pool_channels(responses.unbind(1), images, patch_size, window))


def shuffled_orientations(
    images: Tensor, patch_size: int, window: float, generator: torch.Generator
) -> Tensor:
    """Return SIFT with its eight orientations in a random order, drawn for each patch and step.

    All cells of a patch share the order: the energy of each cell and the values stay, only the
    direction is lost. One fixed order for all patches would be no control: it renames the outputs
    of the head.
    """
    bins = _bins(images, patch_size, window)
    order = torch.rand(*bins.shape[:2], ORIENTATIONS, generator=generator).argsort(-1)
    shuffled = bins.gather(-1, order[:, :, None].expand_as(bins))
    return _unit_mean_square(shuffled.flatten(2))


def without_orientations(
    images: Tensor, patch_size: int, window: float, _: torch.Generator
) -> Tensor:
    """Return SIFT with its orientations summed: the energy of the 16 cells, without noise."""
    return _unit_mean_square(_bins(images, patch_size, window).square().sum(-1).sqrt())


def other_image(
    images: Tensor, patch_size: int, window: float, generator: torch.Generator
) -> Tensor:
    """Return the SIFT targets of the next image of the batch."""
    return sift(images, patch_size, window, generator).roll(1, 0)


def _bins(images: Tensor, patch_size: int, window: float) -> Tensor:
    """Return RootSIFT as (B, P, cells, orientations)."""
    return dense_rootsift(images, patch_size, window).unflatten(-1, (-1, ORIENTATIONS))


def _unit_mean_square(vectors: Tensor) -> Tensor:
    return vectors * math.sqrt(vectors.shape[-1])


CONTROL_TARGETS = {
    "raw pixels": raw_pixels,
    "sobel": sobel,
    "blurred pixels": blurred_pixels,
    "random filters": random_filters,
    "shuffled orientations": shuffled_orientations,
    "without orientations": without_orientations,
    "other image": other_image,
}
