"""Targets of a batch of model inputs: descriptors or words, from the pixels of the inputs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semattn.images import Preprocessing
from semattn.utils.validation import check_values

from .descriptor_targets import descriptor_targets, target_length
from .descriptor_words import DescriptorWords


@torch.no_grad()
def patch_targets(
    images: Tensor | np.ndarray,
    target: str | DescriptorWords = "sift",
    *,
    patch_size: int = 16,
    window: float = 16.0,
    preprocessing: Preprocessing | None = None,
) -> Tensor:
    """Compute the targets of each patch of cropped and mirrored images, on their device.

    Parameters
    ----------
    images : pixels (B, H, W, 3) uint8, an array; or a tensor (B, 3, H, W), uint8 or in [0, 1], or
        normalised by `preprocessing`
    target : as for `descriptor_targets`, or words, which have their own window
    patch_size, window : as for `descriptor_targets`
    preprocessing : its normalisation is undone first, to 8-bit pixels

    Returns
    -------
    Tensor
        (B, P, D) floating point, or words (B, P) int64, without gradient.

    Raises
    ------
    ValueError
        For words that were fitted to patches of another size.

    Examples
    --------
    >>> patch_targets(np.zeros((2, 32, 48, 3), np.uint8), "hog").shape
    torch.Size([2, 6, 144])
    """
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    if preprocessing is not None:
        check_values("images", images)
        levels = preprocessing.restore(images) * 255
        images = levels.round_().clamp_(0, 255).to(torch.uint8)
    if not isinstance(target, DescriptorWords):
        _refuse_name_of_words(target)
        return descriptor_targets(images, target, patch_size=patch_size, window=window)
    if target.patch_size != patch_size:
        raise ValueError(
            f"target: expected words of patches of {patch_size} pixels, got words of patches of "
            f"{target.patch_size} — fit them with patch_size={patch_size}"
        )
    return target.targets(images)


def output_length(target: str | DescriptorWords = "sift", *, patch_size: int = 16) -> int:
    """Return the number of outputs of a head: the values of a target, or the number of words.

    Examples
    --------
    >>> output_length("sift+colour"), output_length(DescriptorWords(torch.eye(5)))
    (176, 5)
    """
    if isinstance(target, DescriptorWords):
        return len(target)
    _refuse_name_of_words(target)
    return target_length(target, patch_size=patch_size)


def _refuse_name_of_words(target: str) -> None:
    """Raise ValueError for the name "words": words are fitted first."""
    if target == "words":
        raise ValueError(
            "target: expected words, got their name — pass the result of fit_words or load_words"
        )
