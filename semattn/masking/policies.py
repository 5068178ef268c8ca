"""Masking policies: random, block-wise, and guided by keypoint density.

A policy orders the patches of an image; `Masking.masks` converts the order to `Masks`. A new
policy overrides `order` and is registered in `policies`, which the command line and tests read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.registry import Registry, unknown_name_message
from semattn.utils.validation import check_number, check_values

from .masks import Masks, generator, noise_of, num_visible

policies: Registry[Any] = Registry("masking")
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


SHAPES = ("constant", "linear", "cosine")
MAX_BETA = 1e12  # beyond it, the order is deterministic


@dataclass(frozen=True)
class Schedule:
    """Number that changes from `start` in the first epoch to `end` in the last.

    Parameters
    ----------
    start, end : first and last value; "constant" stays at `start`
    epochs : number of epochs
    shape : "constant", "linear", or "cosine" (half a cosine wave, slow at both ends)

    Examples
    --------
    >>> [round(Schedule(-2, 2, epochs=5)(epoch), 2) for epoch in range(5)]
    [-2.0, -1.0, 0.0, 1.0, 2.0]
    >>> [round(Schedule(0, 1, epochs=5, shape="cosine")(epoch), 2) for epoch in range(5)]
    [0.0, 0.15, 0.5, 0.85, 1.0]
    """

    start: float
    end: float
    epochs: int
    shape: str = "linear"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(unknown_name_message("schedule", self.shape, SHAPES))
        for name in ("start", "end"):
            check_number(name, getattr(self, name))
        check_number("epochs", self.epochs, minimum=1, integer=True)

    def __call__(self, epoch: int) -> float:
        """Return the value in an epoch, counted from 0; constant after the last epoch."""
        progress = min(max(epoch / max(self.epochs - 1, 1), 0.0), 1.0)
        if self.shape == "constant":
            progress = 0.0
        elif self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress


@policies.register("guided")
@dataclass(frozen=True)
class GuidedMasking(Masking):
    """Gumbel-top-k masking by the rank u of each patch's density: exactly k patches are masked.

    u_i in [0, 1] is the rank of s_i divided by P - 1; ties are broken at random in each epoch.
    Patches are drawn without replacement with odds exp(beta u_i): beta = 0 is MAE's random mask,
    beta > 0 masks dense patches first, beta < 0 masks sparse patches first.

    Parameters
    ----------
    mask_ratio, seed : as for `Masking`
    beta : nats, or a `Schedule` over epochs; at 2 the densest patch has 7.4 times the odds of the
        sparsest
    hint : fraction of the k patches with the highest masking odds that is drawn to stay visible
        (hints as in AttMask, Kakogeorgiou et al., arXiv 2203.12719); no effect at beta = 0

    Examples
    --------
    >>> s = np.array([[0.0, 0.0, 5.0, 1.0, 9.0, 0.0, 0.0, 2.0]])
    >>> masks = GuidedMasking(0.5, beta=1000).masks((2, 4), images=[0], s=s)
    >>> masks.mask.int().tolist()[0][2:5], int(masks.mask.sum())
    ([1, 1, 1], 4)
    """

    beta: float | Schedule = 2.0
    hint: float = 0.0

    needs_density = True

    def __post_init__(self) -> None:
        check_number("hint", self.hint)
        if not 0 <= self.hint < 1:
            raise ValueError(
                f"hint: expected a fraction in [0, 1), got {self.hint} — 0 turns hints off"
            )
        if not isinstance(self.beta, Schedule):
            check_number("beta", self.beta, -MAX_BETA, MAX_BETA)

    def beta_at(self, epoch: int) -> float:
        """Return beta in an epoch, counted from 0."""
        return self.beta(epoch) if isinstance(self.beta, Schedule) else float(self.beta)

    def order(self, view: View) -> np.ndarray:
        """Return the patches (P,) of an image, visible ones first; see `Masking`."""
        s, chance = view.s, view.chance
        num_patches, beta = len(s), self.beta_at(view.epoch)
        rank = np.empty(num_patches)
        rank[np.lexsort((chance.random(num_patches), s))] = np.arange(num_patches) / max(
            num_patches - 1, 1
        )
        keys = beta * rank + chance.gumbel(size=num_patches)
        num_hints = self._hints(num_patches)
        if num_hints and beta:
            preferred = np.argsort(-math.copysign(1, beta) * rank)[
                : num_patches - num_visible(num_patches, self.mask_ratio)
            ]
            keys[chance.choice(preferred, num_hints, replace=False)] = -np.inf
        return np.argsort(keys, kind="stable")

    def _hints(self, num_patches: int) -> int:
        """Return the number of patches that are forced to stay visible."""
        visible = num_visible(num_patches, self.mask_ratio)
        num_hints = round(self.hint * (num_patches - visible))
        if num_hints > visible:
            raise ValueError(
                f"hint: expected at most {visible / (num_patches - visible):.2f} if {visible} of "
                f"{num_patches} patches stay visible, got {self.hint} — lower it or mask less"
            )
        return num_hints
