"""`Masks`: one batch's masks in every form that trainers take, and the chance they are drawn by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semattn.checks import check_number
from semattn.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a batch, as a rank of its patches: those of the least noise stay visible.

    Parameters
    ----------
    noise : (B, P) float32, all different in a row; what `ViTMAEForPreTraining(noise=…)` takes
    visible : number of patches that stay visible, the same in each image
    loss_weight : (B, P) float32, how much each patch counts in the loss; None: all alike

    Examples
    --------
    >>> masks = Masks(torch.tensor([[0.6, 0.1, 0.9, 0.4]]), visible=1)
    >>> masks.mask.tolist(), masks.ids_keep.tolist(), masks.ids_restore.tolist()
    ([[1.0, 0.0, 1.0, 1.0]], [[1]], [[2, 0, 3, 1]])
    """

    noise: Tensor
    visible: int
    loss_weight: Tensor | None = None

    def __post_init__(self) -> None:
        if self.noise.ndim != 2:
            raise ShapeError(
                f"noise: expected (B, P), got {tuple(self.noise.shape)} — one number a patch"
            )

    def __len__(self) -> int:
        return len(self.noise)

    @property
    def ids_shuffle(self) -> Tensor:
        """(B, P) the patches, the visible ones first."""
        return self.noise.argsort(dim=1, stable=True)

    @property
    def ids_restore(self) -> Tensor:
        """(B, P) the place of each patch in `ids_shuffle`."""
        return self.ids_shuffle.argsort(dim=1)

    @property
    def ids_keep(self) -> Tensor:
        """(B, visible) the visible patches, in MAE's order."""
        return self.ids_shuffle[:, : self.visible]

    @property
    def bool_masked_pos(self) -> Tensor:
        """(B, P) true where a patch is masked: what SimMIM's and BEiT's models take."""
        return self.ids_restore >= self.visible

    @property
    def mask(self) -> Tensor:
        """(B, P) float32, 1 where a patch is masked and 0 where it is visible, as in MAE."""
        return self.bool_masked_pos.float()

    def to(self, device: torch.device | str) -> Masks:
        """The same masks on a device."""
        weight = None if self.loss_weight is None else self.loss_weight.to(device)
        return Masks(self.noise.to(device), self.visible, weight)


def kept(patches: int, mask_ratio: float) -> int:
    """How many of P patches stay visible: int(P (1 - mask_ratio)), as MAE counts them.

    Raises
    ------
    ValueError
        For a ratio outside (0, 1), and for one that leaves no patch masked or none visible.

    Examples
    --------
    >>> kept(196, 0.75), kept(49, 0.6)
    (49, 19)
    """
    check_number("mask_ratio", mask_ratio)
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio: expected one between 0 and 1, got {mask_ratio} — .75 is MAE")
    visible = int(patches * (1 - mask_ratio))
    if not 0 < visible < patches:
        raise ValueError(
            f"mask_ratio: expected one that masks some of {patches} patches and leaves some, got "
            f"{mask_ratio}, which leaves {visible} — take smaller patches or another ratio"
        )
    return visible


def noise_of(order: np.ndarray) -> np.ndarray:
    """Noise (P,) float32 in (0, 1) whose rank is `order`, the patch that is kept first in front."""
    noise = np.empty(len(order), dtype=np.float32)
    noise[order] = (np.arange(len(order), dtype=np.float32) + 0.5) / len(order)
    return noise


def generator(seed: int, epoch: int, image: int | str, purpose: int = 0) -> np.random.Generator:
    """Chance for one image in one epoch, the same in every batch, worker and process.

    Parameters
    ----------
    seed, epoch : >= 0
    image : its index, or its name
    purpose : different chances for different uses

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
        check_number(name, value, whole=True)
    if min(seed, epoch, image) < 0:
        raise ValueError(
            f"seed, epoch, image: expected integers >= 0, got {seed}, {epoch}, {image} — "
            "a name is taken as well for an image"
        )
    return np.random.default_rng([seed, epoch, purpose, image])
