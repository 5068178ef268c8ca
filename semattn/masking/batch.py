"""Densities and masks of a batch of images, with their loss weights and targets."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from semattn.density import Scene, count, densities, density_needs
from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.images import pixels_of
from semattn.keypoints import Keypoints, detect
from semattn.utils.validation import check_number

from .descriptor_words import DescriptorWords
from .masks import Masks
from .patch_targets import patch_targets
from .policies import Masking, policies
from .target_loss import loss_weights


def densities_of(
    inputs: Tensor | np.ndarray,
    density: Any = "count",
    *,
    patch_size: int = 16,
    keypoints: Sequence[Keypoints] | None = None,
    detector: Any = "sift",
    seed: int = 0,
    preprocessing: Any = None,
) -> Tensor:
    """Compute the density s (B, P) of each image, independent of the batch.

    Parameters
    ----------
    inputs : model inputs (B, C, H, W), or pixels (B, H, W, 3) uint8
    density : a name in `semattn.densities`, or a function of a `Scene`
    patch_size : side of a patch, pixels
    keypoints : keypoints of each image, if already detected
    detector : detector for images without keypoints
    seed : seed of random baselines
    preprocessing : used to undo the normalisation of tensors; without it, each is min-max scaled

    Raises
    ------
    ShapeError
        If the image size is not a multiple of the patch size.
    """
    pixels = _pixels(inputs, patch_size, preprocessing)
    height, width = pixels.shape[1:3]
    if height % patch_size or width % patch_size:
        raise ShapeError(
            f"inputs: expected sides that are multiples of {patch_size}, got {height}x{width} — "
            "resize the images, or pass the model's patch_size"
        )
    if density == "other":
        raise ValueError(
            "density: expected a density of each image, got 'other', which depends on the batch — "
            "pass the keypoints of other images, with density 'count'"
        )
    density_function = densities.resolve(density)
    needs = density_needs(density_function)
    if keypoints is None and needs:
        keypoints = detect(pixels, detector, descriptors="descriptors" in needs)
    shape = (height // patch_size, width // patch_size)
    grid = PatchGrid(shape, (height, width), (patch_size, patch_size))
    values: Tensor = density_function(Scene(pixels, keypoints or (), grid, seed))
    return values


def _pixels(inputs: Tensor | np.ndarray, patch_size: int, preprocessing: Any) -> np.ndarray:
    """Return pixels (B, H, W, 3) uint8 of a tensor or an array; raise for other shapes."""
    check_number("patch_size", patch_size, minimum=1, integer=True)
    if not isinstance(inputs, np.ndarray):
        return pixels_of(inputs, preprocessing)
    if inputs.ndim != 4 or inputs.shape[-1] != 3 or inputs.dtype != np.uint8:
        raise ShapeError(
            f"inputs: expected pixels (B, H, W, 3) of uint8, got {inputs.shape} of {inputs.dtype} "
            "— or a tensor (B, C, H, W)"
        )
    return inputs


def mask_images(
    inputs: Tensor | np.ndarray,
    masking: Masking | str = "guided",
    *,
    images: Sequence[int | str] | None = None,
    epoch: int = 0,
    patch_size: int = 16,
    density: Any = "count",
    keypoints: Sequence[Keypoints] | None = None,
    detector: Any = "sift",
    loss_weight: str = "none",
    temperature: float = 0.5,
    target: str | DescriptorWords | None = None,
    window: float = 16.0,
    preprocessing: Any = None,
) -> Masks:
    """Compute the masks of a batch of images, and if requested their loss weights and targets.

    Parameters
    ----------
    inputs, density, patch_size, keypoints, detector, preprocessing : as for `densities_of`
    masking : a policy, or a name in `policies`
    images : index or name of each image, which seeds its random numbers; a checksum of the pixels
        by default
    epoch : counted from 0
    loss_weight, temperature : as for `semattn.masking.loss_weights`, which use the count
    target, window : as for `semattn.masking.patch_targets`, which computes targets on a GPU; here
        they are computed on the CPU

    Examples
    --------
    >>> import torch
    >>> masks = mask_images(torch.rand(2, 3, 64, 64), "guided", images=["a.jpg", "b.jpg"])
    >>> masks.noise.shape, masks.bool_masked_pos.sum(1).tolist()
    (torch.Size([2, 16]), [12, 12])
    """
    policy = policies.resolve(masking)() if isinstance(masking, str) else masking
    pixels = _pixels(inputs, patch_size, preprocessing)
    if images is None:
        images = [zlib.crc32(image.tobytes()) for image in pixels]
    if len(images) != len(pixels):
        raise ShapeError(
            f"images: expected {len(pixels)} names, one per image, got {len(images)} — "
            "omit them to use a checksum of the pixels"
        )
    is_weighted = loss_weight != "none"
    if keypoints is None and (is_weighted or policy.needs_density):
        needs = density_needs(density)
        if needs or is_weighted:
            keypoints = detect(pixels, detector, descriptors="descriptors" in needs)
    options: dict[str, Any] = {"patch_size": patch_size, "keypoints": keypoints}
    shape = (pixels.shape[1] // patch_size, pixels.shape[2] // patch_size)
    s = densities_of(pixels, density, seed=policy.seed, **options) if policy.needs_density else None
    masks = policy.masks(shape, images, s, epoch)
    if is_weighted:
        counts = densities_of(pixels, count, **options)
        weights = loss_weights(loss_weight, counts, patch_size**2, temperature)
        masks = replace(masks, loss_weight=weights)
    if target is not None:
        targets = patch_targets(pixels, target, patch_size=patch_size, window=window)
        masks = replace(masks, target=targets)
    return masks
