"""`Masks`: the masks of a batch in the forms that trainers expect, and their random generator."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.validation import check_number


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of a batch, stored as noise per patch: the patches with the least noise stay visible.

    Parameters
    ----------
    noise : (B, P) float32, distinct within a row; the `noise` argument of `ViTMAEForPreTraining`
    visible : number of patches that stay visible, the same in each image
    loss_weight : (B, P) float32, weight of each patch in the loss; None: equal weights
    target : (B, P, D) floating point, or words (B, P) int64, of all patches; None: no target

    Examples
    --------
    >>> masks = Masks(torch.tensor([[0.6, 0.1, 0.9, 0.4]]), visible=1)
    >>> masks.mask.tolist(), masks.ids_keep.tolist(), masks.ids_restore.tolist()
    ([[1.0, 0.0, 1.0, 1.0]], [[1]], [[2, 0, 3, 1]])
    """

    noise: Tensor
    visible: int
    loss_weight: Tensor | None = None
    target: Tensor | None = None

    def __post_init__(self) -> None:
        if self.noise.ndim != 2:
            raise ShapeError(
                f"noise: expected (B, P), got {tuple(self.noise.shape)} — one number per patch"
            )

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def ids_shuffle(self) -> Tensor:
        """Patch indices (B, P), the visible ones first."""
        return self.noise.argsort(dim=1, stable=True)

    @property
    def ids_restore(self) -> Tensor:
        """Position (B, P) of each patch in `ids_shuffle`."""
        return self.ids_shuffle.argsort(dim=1)

    @property
    def ids_keep(self) -> Tensor:
        """Indices (B, visible) of the visible patches, in MAE's order."""
        return self.ids_shuffle[:, : self.visible]

    @property
    def bool_masked_pos(self) -> Tensor:
        """Boolean mask (B, P), true for masked patches, as expected by SimMIM and BEiT models."""
        return self.ids_restore >= self.visible

    @property
    def mask(self) -> Tensor:
        """Mask (B, P) float32, 1 for masked and 0 for visible patches, as in MAE."""
        return self.bool_masked_pos.float()

    def to(self, device: torch.device | str) -> Masks:
        """Return the masks on a device."""
        weight, target = (
            None if values is None else values.to(device)
            for values in (self.loss_weight, self.target)
        )
        return Masks(self.noise.to(device), self.visible, weight, target)


def num_visible(patches: int, mask_ratio: float) -> int:
    """Return the number of P patches that stay visible: int(P (1 - mask_ratio)), as in MAE.

    Raises
    ------
    ValueError
        If the ratio is outside (0, 1), or leaves no patch masked or no patch visible.

    Examples
    --------
    >>> num_visible(196, 0.75), num_visible(49, 0.6)
    (49, 19)
    """
    check_number("mask_ratio", mask_ratio)
    if not 0 < mask_ratio < 1:
        raise ValueError(
            f"mask_ratio: expected a number in (0, 1), got {mask_ratio} — MAE uses .75"
        )
    visible = int(patches * (1 - mask_ratio))
    if not 0 < visible < patches:
        raise ValueError(
            f"mask_ratio: expected at least one masked and one visible of {patches} patches, got "
            f"{mask_ratio}, which leaves {visible} visible — use smaller patches or another ratio"
        )
    return visible


def noise_of(order: np.ndarray) -> np.ndarray:
    """Return noise (P,) float32 in (0, 1) that sorts the patches into `order`."""
    noise = np.empty(len(order), dtype=np.float32)
    noise[order] = (np.arange(len(order), dtype=np.float32) + 0.5) / len(order)
    return noise


def generator(seed: int, epoch: int, image: int | str, purpose: int = 0) -> np.random.Generator:
    """Return the random generator of an image in an epoch, independent of batch and process.

    Parameters
    ----------
    seed, epoch : >= 0
    image : index or name of the image
    purpose : separates independent uses

    Examples
    --------
    >>> generator(0, 3, "a.jpg").random() == generator(0, 3, "a.jpg").random()
    True
    """
    if isinstance(image, str):
        image = int.from_bytes(
            hashlib.blake2b(image.encode("utf-8", "surrogatepass"), digest_size=8).digest(),
            "little",
        )
    for name, value in (("seed", seed), ("epoch", epoch), ("image", image)):
        check_number(name, value, integer=True)
    if min(seed, epoch, image) < 0:
        raise ValueError(
            f"seed, epoch, image: expected integers >= 0, got {seed}, {epoch}, {image} — "
            "image may also be a name"
        )
    return np.random.default_rng([seed, epoch, purpose, image])
