"""Masking policies: what a policy is, and the two that do not look at the image.

A policy orders the patches of one image; `masks` makes of it what trainers take. A new policy
overrides `order` and registers itself; the command line and the tests find it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semattn.checks import check_values
from semattn.errors import ShapeError
from semattn.registry import Registry

from .masks import Masks, generator, kept, noise_of

policies = Registry("masking")
"""Name to a class that extends `Masking`."""

MASK = 1  # purpose of the chance: masks are drawn by another one than crops

SMALLEST_BLOCK = 16 / 196  # of the patches: BEiT's 16 of 14 x 14
ASPECT = 0.3  # of a block's sides, and its inverse
TRIES = 10  # blocks in a row that hide nothing new, before a patch is taken by itself


@dataclass(frozen=True, eq=False)
class View:
    """What a policy sees of one image.

    Parameters
    ----------
    s : (P,) its density, >= 0; zeros for policies that do not look
    shape : (h, w), patches
    chance : of this image in this epoch
    epoch : from 0
    """

    s: np.ndarray
    shape: tuple[int, int]
    chance: np.random.Generator
    epoch: int = 0


@dataclass(frozen=True)
class Masking:
    """What all policies share.

    Parameters
    ----------
    mask_ratio : part of the patches that is masked; exactly P - int(P (1 - mask_ratio)) are
    seed : of what is drawn by chance
    """

    mask_ratio: float = 0.75
    seed: int = 0

    # Whether `order` looks at the density.
    looks = False

    def order(self, view: View) -> np.ndarray:
        """The patches (P,) of one image, those that stay visible first."""
        raise NotImplementedError

    def noise(
        self, s: np.ndarray, shape: tuple[int, int], image: int | str, epoch: int = 0
    ) -> np.ndarray:
        """MAE's noise (P,) for one image, in (0, 1)."""
        chance = generator(self.seed, epoch, image, MASK)
        return noise_of(self.order(View(s, shape, chance, epoch)))

    def masks(
        self,
        shape: tuple[int, int],
        images: Sequence[int | str],
        s: Tensor | np.ndarray | None = None,
        epoch: int = 0,
    ) -> Masks:
        """The masks of a batch, each image's for itself.

        Parameters
        ----------
        shape : (h, w), patches
        images : an index or a name for each; with the seed and the epoch they decide all chance
        s : (B, P) their densities, for policies that look at them
        epoch : from 0

        Examples
        --------
        >>> masks = RandomMasking(0.75).masks((2, 4), images=["a.jpg", "b.jpg"])
        >>> masks.ids_keep.shape, masks.mask.sum(1).tolist()
        (torch.Size([2, 2]), [6.0, 6.0])
        """
        patches = shape[0] * shape[1]
        visible = kept(patches, self.mask_ratio)
        density = self._densities(s, len(images), patches)
        pairs = zip(density, images, strict=True)
        rows = [self.noise(one, shape, image, epoch) for one, image in pairs]
        noise = np.stack(rows) if rows else np.zeros((0, patches), dtype=np.float32)
        return Masks(torch.from_numpy(noise), visible)

    def _densities(self, s: Tensor | np.ndarray | None, count: int, patches: int) -> np.ndarray:
        if s is None:
            if self.looks:
                raise ValueError(
                    f"density: expected (B, {patches}) for {type(self).__name__}, got none — "
                    "semattn.masking.densities_of makes it from images"
                )
            return np.zeros((count, patches))
        if isinstance(s, Tensor):
            check_values("density", s)
            values = s.detach().cpu().double().numpy()
        else:
            values = np.asarray(s)
            if values.dtype.kind not in "biuf":
                raise TypeError(f"density: expected numbers, got {values.dtype}")
        if values.shape != (count, patches):
            raise ShapeError(
                f"density: expected ({count}, {patches}), got {values.shape} — one row an image, "
                "one value a patch"
            )
        if not np.isfinite(values).all():
            raise ValueError("density: expected finite values, got NaN or inf — clean it first")
        return values


@policies.register("random")
@dataclass(frozen=True)
class RandomMasking(Masking):
    """MAE's: every set of patches is as likely as any other (He et al., arXiv 2111.06377)."""

    def order(self, view: View) -> np.ndarray:
        """As for `Masking`."""
        return view.chance.permutation(view.shape[0] * view.shape[1])


@policies.register("block-wise")
@dataclass(frozen=True)
class BlockwiseMasking(Masking):
    """BEiT's: rectangles of patches, until enough is masked (Bao et al., arXiv 2106.08254).

    Notes
    -----
    BEiT stops at the first block that reaches its number; here the last block gives up patches by
    chance, so that the number is exact.
    """

    def order(self, view: View) -> np.ndarray:
        """As for `Masking`."""
        (h, w), chance = view.shape, view.chance
        masked = h * w - kept(h * w, self.mask_ratio)
        hidden = np.zeros((h, w), dtype=bool)
        smallest, idle = max(1.0, SMALLEST_BLOCK * h * w), 0
        while (missing := masked - int(hidden.sum())) > 0:
            area = chance.uniform(min(smallest, missing), missing)
            ratio = np.exp(chance.uniform(np.log(ASPECT), -np.log(ASPECT)))
            rows = min(h, max(1, round(np.sqrt(area * ratio))))
            columns = min(w, max(1, round(np.sqrt(area / ratio))))
            top = int(chance.integers(h - rows, endpoint=True))
            left = int(chance.integers(w - columns, endpoint=True))
            block = np.zeros((h, w), dtype=bool)
            block[top : top + rows, left : left + columns] = True
            new = np.flatnonzero(block & ~hidden)
            idle = 0 if len(new) else idle + 1
            if idle > TRIES:
                new = np.flatnonzero(~hidden)[:1]
            hidden.flat[new] = True
        # What the last block hides too much stays visible, by chance.
        return np.lexsort((chance.permutation(h * w), hidden.ravel()))
