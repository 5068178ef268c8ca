"""Guided masking: rich patches are hidden more often, or less, by as much as beta says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from semattn.checks import check_number
from semattn.registry import choices

from .masks import kept
from .policies import Masking, View, policies

SHAPES = ("constant", "linear", "cosine")
MOST_BETA = 1e12  # beyond it, nothing is left to chance


@dataclass(frozen=True)
class Schedule:
    """A number that moves from `start` in the first epoch to `end` in the last.

    Parameters
    ----------
    start, end : its values; "constant" stays at `start`
    epochs : how many there are
    shape : "constant", "linear", or "cosine": half a wave, slow at both ends

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
            raise ValueError(choices("schedule", self.shape, SHAPES))
        for name in ("start", "end"):
            check_number(name, getattr(self, name))
        check_number("epochs", self.epochs, least=1, whole=True)

    def __call__(self, epoch: int) -> float:
        """The number in an epoch, counted from 0; after the last one it stays."""
        part = min(max(epoch / max(self.epochs - 1, 1), 0.0), 1.0)
        if self.shape == "constant":
            part = 0.0
        elif self.shape == "cosine":
            part = (1 - math.cos(math.pi * part)) / 2
        return self.start + (self.end - self.start) * part


@policies.register("guided")
@dataclass(frozen=True)
class GuidedMasking(Masking):
    """Gumbel-top-k of beta u, u the rank of a patch's density: exactly k patches are masked.

    u_i in [0, 1] is the rank of s_i over P - 1, ties in a chance order that is drawn again in each
    epoch. Patches are drawn without replacement with odds exp(beta u_i): beta = 0 is MAE's random
    mask, beta > 0 hides rich patches first, beta < 0 poor ones.

    Parameters
    ----------
    mask_ratio, seed : as for `Masking`
    beta : nats, or a `Schedule` of them over epochs; at 2 the richest patch has 7.4 times the odds
        of the poorest
    hint : of the patches that beta wants hidden most, as many as are masked, this part is drawn to
        stay visible for certain (as hints are in AttMask, Kakogeorgiou et al., arXiv 2203.12719);
        nothing at beta = 0

    Examples
    --------
    >>> s = np.array([[0.0, 0.0, 5.0, 1.0, 9.0, 0.0, 0.0, 2.0]])
    >>> masks = GuidedMasking(0.5, beta=1000).masks((2, 4), images=[0], s=s)
    >>> masks.mask.int().tolist()[0][2:5], int(masks.mask.sum())
    ([1, 1, 1], 4)
    """

    beta: float | Schedule = 2.0
    hint: float = 0.0

    looks = True

    def __post_init__(self) -> None:
        check_number("hint", self.hint)
        if not 0 <= self.hint < 1:
            raise ValueError(f"hint: expected a part from 0 up to 1, got {self.hint} — 0 is none")
        if not isinstance(self.beta, Schedule):
            check_number("beta", self.beta, -MOST_BETA, MOST_BETA)

    def beta_at(self, epoch: int) -> float:
        """Beta in an epoch, counted from 0."""
        return self.beta(epoch) if isinstance(self.beta, Schedule) else float(self.beta)

    def order(self, view: View) -> np.ndarray:
        """As for `Masking`."""
        s, chance = view.s, view.chance
        count, beta = len(s), self.beta_at(view.epoch)
        u = np.empty(count)
        u[np.lexsort((chance.random(count), s))] = np.arange(count) / max(count - 1, 1)
        keys = beta * u + chance.gumbel(size=count)
        hints = self._hints(count)
        if hints and beta:
            wanted = np.argsort(-math.copysign(1, beta) * u)[: count - kept(count, self.mask_ratio)]
            keys[chance.choice(wanted, hints, replace=False)] = -np.inf
        return np.argsort(keys, kind="stable")

    def _hints(self, count: int) -> int:
        """How many patches are sure to stay visible."""
        visible = kept(count, self.mask_ratio)
        hints = round(self.hint * (count - visible))
        if hints > visible:
            raise ValueError(
                f"hint: expected at most {visible / (count - visible):.2f} where {visible} of "
                f"{count} patches stay visible, got {self.hint} — lower it or mask less"
            )
        return hints
