"""Targets of masked patches by name: descriptors, pixels, and sums of them.

A target is one part ("sift") or several parts joined by "+" ("sift+colour"). A new part is a
function that is registered in `target_parts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.registry import Registry, unknown_name_message

from .dense_descriptors import (
    RADIUS,
    dense_colour,
    dense_hog,
    dense_rootsift,
    normalised_pixels,
)

TargetPart = Callable[[Tensor, int, float], Tensor]

target_parts: Registry[TargetPart] = Registry("target")
"""Mapping of names to functions of images, patch size and window that return (B, P, D)."""


@target_parts.register("sift")
def _sift(images: Tensor, patch_size: int, window: float) -> Tensor:
    return _unit_mean_square(dense_rootsift(images, patch_size, window))


@target_parts.register("hog")
def _hog(images: Tensor, patch_size: int, window: float) -> Tensor:
    return _unit_mean_square(dense_hog(images, patch_size))


@target_parts.register("colour")
def _colour(images: Tensor, patch_size: int, window: float) -> Tensor:
    return _unit_mean_square(dense_colour(images, patch_size))


@target_parts.register("pixels")
def _pixels(images: Tensor, patch_size: int, window: float) -> Tensor:
    return normalised_pixels(images, patch_size)


def descriptor_targets(
    images: Tensor, target: str = "sift", *, patch_size: int = 16, window: float = 16.0
) -> Tensor:
    """Compute the targets of the patches of a batch of images.

    Parameters
    ----------
    images : (B, 3, H, W), uint8, or floating point in [0, 1], on any device. Crop and mirror the
        images first: descriptors follow the pixels.
    target : a name in `target_parts`, or several joined by "+": "sift", "hog", "pixels", "colour",
        "sift+colour", "sift+pixels", …
    patch_size : side of a patch, pixels
    window : side of the window of SIFT, pixels, centred on the patch; other parts use the patch

    Returns
    -------
    Tensor
        (B, P, D) floating point, without gradient, of mean square 1 in each patch that has
        contrast: n parts have equal shares 1 / n, whatever their lengths. Patches without contrast
        are 0.

    Raises
    ------
    ValueError
        For an unknown name, and on the CPU for values outside [0, 1].

    Notes
    -----
    Predicting HOG of masked patches is MaskFeat (arXiv 2112.09133). SIFT and HOG do not see colour;
    "+colour" appends it. For words in place of vectors, see `fit_words`.

    Examples
    --------
    >>> images = torch.rand(2, 3, 32, 48)
    >>> descriptor_targets(images, "sift+colour", patch_size=16).shape
    torch.Size([2, 6, 176])
    """
    names = target.split("+") if isinstance(target, str) else [target]
    for name in names:
        if name not in target_parts:
            raise ValueError(unknown_name_message("target", name, target_parts))
    parts = [target_parts[name](images, patch_size, window) for name in names]
    if len(parts) == 1:
        return parts[0]
    factors = _factors([part.shape[-1] for part in parts])
    return torch.cat([part * factor for part, factor in zip(parts, factors, strict=True)], dim=-1)


def split_parts(target: str, values: Tensor, patch_size: int = 16) -> dict[str, Tensor]:
    """Split targets or predictions (…, D) into their parts, each with its own scale.

    Examples
    --------
    >>> images = torch.rand(2, 3, 32, 48)
    >>> parts = split_parts("sift+hog", descriptor_targets(images, "sift+hog"))
    >>> torch.allclose(parts["hog"], descriptor_targets(images, "hog"), atol=1e-6)
    True
    """
    names = target.split("+")
    if len(names) == 1:
        return {target: values}
    lengths = [target_length(name, patch_size=patch_size) for name in names]
    if values.shape[-1] != sum(lengths):
        raise ShapeError(
            f"values: expected {sum(lengths)} for {target!r}, got {values.shape[-1]} — pass the "
            "targets of this name and patch size"
        )
    parts = zip(names, values.split(lengths, dim=-1), _factors(lengths), strict=True)
    return {name: part / factor for name, part, factor in parts}


def target_length(target: str = "sift", *, patch_size: int = 16) -> int:
    """Return D, the number of values of a patch that a head has to predict.

    Examples
    --------
    >>> [target_length(name, patch_size=16) for name in ("sift", "hog", "pixels", "colour")]
    [128, 144, 768, 48]
    """
    side = patch_size * (1 + RADIUS // patch_size)  # at least 7 pixels
    blank = torch.zeros(1, 3, side, side, device="cpu")
    return descriptor_targets(blank, target, patch_size=patch_size).shape[-1]


def _factors(lengths: list[int]) -> list[float]:
    """Return the factors that give the parts of a sum equal shares."""
    return [math.sqrt(sum(lengths) / (len(lengths) * length)) for length in lengths]


def _unit_mean_square(vectors: Tensor) -> Tensor:
    return vectors * math.sqrt(vectors.shape[-1])
