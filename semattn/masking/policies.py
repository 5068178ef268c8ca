"""Base class of masking policies, and the two policies that ignore the image.

A policy orders the patches of an image; `Masking.masks` converts the order to `Masks`. A new
policy overrides `order` and is registered in `policies`, which the command line and tests read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.registry import Registry
from semattn.utils.validation import check_values

from .masks import Masks, generator, noise_of, num_visible

policies = Registry("masking")
"""Mapping of names to subclasses of `Masking`."""

MASK_PURPOSE = 1  # separates the random numbers of masks from those of crops

SMALLEST_BLOCK = 16 / 196  # fraction of the patches: 16 of 14 x 14 in BEiT
ASPECT = 0.3  # smallest aspect of a block; its inverse is the largest
MAX_IDLE_BLOCKS = 10  # consecutive blocks without a new patch, before a single patch is masked


@dataclass(frozen=True, eq=False)
class View:
    """Input of a policy for an image.

    Parameters
    ----------
    s : (P,) density, >= 0; zeros for policies that ignore it
    shape : (h, w), patches
    chance : random generator of this image and epoch
    epoch : counted from 0
    """

    s: np.ndarray
    shape: tuple[int, int]
    chance: np.random.Generator
    epoch: int = 0


@dataclass(frozen=True)
class Masking:
    """Base class of masking policies.

    Parameters
    ----------
    mask_ratio : fraction of masked patches; exactly P - int(P (1 - mask_ratio)) are masked
    seed : seed of the random numbers
    """

    mask_ratio: float = 0.75
    seed: int = 0

    # True if `order` uses the density.
    needs_density = False

    def order(self, view: View) -> np.ndarray:
        """Return the patches (P,) of an image, visible ones first."""
        raise NotImplementedError

    def noise(
        self, s: np.ndarray, shape: tuple[int, int], image: int | str, epoch: int = 0
    ) -> np.ndarray:
        """Return MAE's noise (P,) for an image, in (0, 1)."""
        chance = generator(self.seed, epoch, image, MASK_PURPOSE)
        return noise_of(self.order(View(s, shape, chance, epoch)))

    def masks(
        self,
        shape: tuple[int, int],
        images: Sequence[int | str],
        s: Tensor | np.ndarray | None = None,
        epoch: int = 0,
    ) -> Masks:
        """Compute the masks of a batch, independently for each image.

        Parameters
        ----------
        shape : (h, w), patches
        images : index or name of each image; seeds the random numbers with `seed` and `epoch`
        s : (B, P) densities, for policies that use them
        epoch : counted from 0

        Examples
        --------
        >>> masks = RandomMasking(0.75).masks((2, 4), images=["a.jpg", "b.jpg"])
        >>> masks.ids_keep.shape, masks.mask.sum(1).tolist()
        (torch.Size([2, 2]), [6.0, 6.0])
        """
        num_patches = shape[0] * shape[1]
        visible = num_visible(num_patches, self.mask_ratio)
        densities = self._densities(s, len(images), num_patches)
        pairs = zip(densities, images, strict=True)
        rows = [self.noise(values, shape, image, epoch) for values, image in pairs]
        noise = np.stack(rows) if rows else np.zeros((0, num_patches), dtype=np.float32)
        return Masks(torch.from_numpy(noise), visible)

    def _densities(
        self, s: Tensor | np.ndarray | None, num_images: int, num_patches: int
    ) -> np.ndarray:
        if s is None:
            if self.needs_density:
                raise ValueError(
                    f"density: expected (B, {num_patches}) for {type(self).__name__}, got none — "
                    "compute it with semattn.masking.densities_of"
                )
            return np.zeros((num_images, num_patches))
        if isinstance(s, Tensor):
            check_values("density", s)
            values = s.detach().cpu().double().numpy()
        else:
            values = np.asarray(s)
            if values.dtype.kind not in "biuf":
                raise TypeError(f"density: expected numbers, got {values.dtype}")
        if values.shape != (num_images, num_patches):
            raise ShapeError(
                f"density: expected ({num_images}, {num_patches}), got {values.shape} — one "
                "row per image, one value per patch"
            )
        if not np.isfinite(values).all():
            raise ValueError("density: expected finite values, got NaN or inf — replace them first")
        return values


@policies.register("random")
@dataclass(frozen=True)
class RandomMasking(Masking):
    """Uniform random masking of MAE (He et al., arXiv 2111.06377)."""

    def order(self, view: View) -> np.ndarray:
        """Return the patches (P,) of an image, visible ones first; see `Masking`."""
        return view.chance.permutation(view.shape[0] * view.shape[1])


@policies.register("block-wise")
@dataclass(frozen=True)
class BlockwiseMasking(Masking):
    """Block-wise masking of BEiT: random rectangles of patches (Bao et al., arXiv 2106.08254).

    Notes
    -----
    BEiT stops at the first block that reaches the number of masked patches. Here random patches
    of the last block stay visible, so that the number is exact.
    """

    def order(self, view: View) -> np.ndarray:
        """Return the patches (P,) of an image, visible ones first; see `Masking`."""
        (h, w), chance = view.shape, view.chance
        num_masked = h * w - num_visible(h * w, self.mask_ratio)
        hidden = np.zeros((h, w), dtype=bool)
        min_area, idle_blocks = max(1.0, SMALLEST_BLOCK * h * w), 0
        while (num_missing := num_masked - int(hidden.sum())) > 0:
            area = chance.uniform(min(min_area, num_missing), num_missing)
            ratio = np.exp(chance.uniform(np.log(ASPECT), -np.log(ASPECT)))
            rows = min(h, max(1, round(np.sqrt(area * ratio))))
            columns = min(w, max(1, round(np.sqrt(area / ratio))))
            top = int(chance.integers(h - rows, endpoint=True))
            left = int(chance.integers(w - columns, endpoint=True))
            block = np.zeros((h, w), dtype=bool)
            block[top : top + rows, left : left + columns] = True
            new = np.flatnonzero(block & ~hidden)
            idle_blocks = 0 if len(new) else idle_blocks + 1
            if idle_blocks > MAX_IDLE_BLOCKS:
                new = np.flatnonzero(~hidden)[:1]
            hidden.flat[new] = True
        # Random surplus patches of the last block stay visible.
        return np.lexsort((chance.permutation(h * w), hidden.ravel()))
