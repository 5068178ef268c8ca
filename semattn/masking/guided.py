"""Guided masking: the probability that a patch is masked depends on its keypoint density."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semattn.utils.registry import unknown_name_message
from semattn.utils.validation import check_number

from .masks import num_visible
from .policies import Masking, View, policies

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
