"""From images to masks in one call."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from semattn.checks import check_number
from semattn.density import Scene, count, densities
from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.images import pixels_of
from semattn.keypoints import Keypoints, detect

from .masks import Masks
from .policies import Masking, policies
from .weights import loss_weights


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
    """The density s (B, P) of each image, whatever its batch.

    Parameters
    ----------
    inputs : (B, C, H, W), as the model gets them, or pixels (B, H, W, 3) uint8
    density : a name in `semattn.densities`, or a function of a `Scene`
    patch_size : side of a patch, pixels
    keypoints : those of each image, where they are known already
    detector : finds them where they are not
    seed : of controls that are drawn by chance
    preprocessing : undoes the normalisation of tensors; without it each is stretched

    Raises
    ------
    ShapeError
        For images that do not divide into patches.
    """
    pixels = _pixels(inputs, patch_size, preprocessing)
    height, width = pixels.shape[1:3]
    if height % patch_size or width % patch_size:
        raise ShapeError(
            f"inputs: expected sides that {patch_size} divides, got {height}x{width} — "
            "resize them, or give the model's patch_size"
        )
    if density == "other":
        raise ValueError(
            "density: expected one of the image itself, got 'other', which depends on the batch — "
            "hand over the keypoints of other images, with 'count'"
        )
    chosen = densities.ensure(density)
    needs = getattr(chosen, "needs", ("keypoints",))
    if keypoints is None and needs:
        keypoints = detect(pixels, detector, descriptors="descriptors" in needs)
    shape = (height // patch_size, width // patch_size)
    grid = PatchGrid(shape, (height, width), (patch_size, patch_size))
    made: Tensor = chosen(Scene(pixels, keypoints or (), grid, seed))
    return made


def _pixels(inputs: Tensor | np.ndarray, patch_size: int, preprocessing: Any) -> np.ndarray:
    """Pixels (B, H, W, 3) of what may be given, or why not."""
    check_number("patch_size", patch_size, least=1, whole=True)
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
    preprocessing: Any = None,
) -> Masks:
    """The masks of a batch of images.

    Parameters
    ----------
    inputs, density, patch_size, keypoints, detector, preprocessing : as for `densities_of`
    masking : a policy, or a name in `policies`
    images : an index or a name for each, which decides its chance; by its pixels if left out
    epoch : from 0
    loss_weight, temperature : as for `semattn.masking.loss_weights`; "kamim" weighs by the count

    Examples
    --------
    >>> import torch
    >>> masks = mask_images(torch.rand(2, 3, 64, 64), "guided", images=["a.jpg", "b.jpg"])
    >>> masks.noise.shape, masks.bool_masked_pos.sum(1).tolist()
    (torch.Size([2, 16]), [12, 12])
    """
    policy = policies.ensure(masking)() if isinstance(masking, str) else masking
    pixels = _pixels(inputs, patch_size, preprocessing)
    if images is None:
        images = [zlib.crc32(one.tobytes()) for one in pixels]
    if len(images) != len(pixels):
        raise ShapeError(
            f"images: expected a name for each of {len(pixels)}, got {len(images)} — "
            "leave them out to go by pixels"
        )
    weighs = loss_weight != "none"
    if keypoints is None and (weighs or policy.looks):
        needs = getattr(densities.ensure(density), "needs", ("keypoints",))
        if needs or weighs:
            keypoints = detect(pixels, detector, descriptors="descriptors" in needs)
    given: dict[str, Any] = {"patch_size": patch_size, "keypoints": keypoints}
    shape = (pixels.shape[1] // patch_size, pixels.shape[2] // patch_size)
    s = densities_of(pixels, density, seed=policy.seed, **given) if policy.looks else None
    made = policy.masks(shape, images, s, epoch)
    if not weighs:
        return made
    counts = densities_of(pixels, count, **given)
    return replace(made, loss_weight=loss_weights(loss_weight, counts, patch_size**2, temperature))
