"""How sure the search is: frequencies, effects, and the score made of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..statistics import LEVEL, Estimate, estimate, sign_flip

DRAWS = 2000  # of a bootstrap
FLIPS = 20_000
WAYS = 2  # of removing a cue, the surer of which counts


@dataclass(frozen=True)
class Effect(Estimate):
    """A mean of nats with its 95 % interval, and `p` of a one-sided sign-flip test."""

    p: float = 1.0


def effect(values: np.ndarray, seed: int = 0) -> Effect:
    """The mean of values (n,), above 0 by more than chance or not; NaN and p = 1 of none.

    Examples
    --------
    >>> effect(np.array([1.0, 1.0, 1.0])).mean
    1.0
    """
    values = np.asarray(values, dtype=np.float64)
    p = sign_flip(values, seed, FLIPS, greater=True)
    return Effect(**vars(estimate(values, seed, DRAWS)), p=p)


def contrast_p(inside: np.ndarray, outside: np.ndarray) -> float:
    """How often classes drawn at random would show a cue as much more in the class, at least.

    `inside` and `outside` (n,) of bool say which images show it. Fisher's exact test, which is the
    permutation of the classes over the images, carried to its end.

    Examples
    --------
    >>> round(contrast_p(np.array([True, True]), np.array([False, False])), 6)
    0.166667
    """
    from scipy.stats import hypergeom

    total, found = len(inside) + len(outside), int(inside.sum() + outside.sum())
    return float(hypergeom.sf(int(inside.sum()) - 1, total, found, len(inside)))


def lift(inside: np.ndarray, outside: np.ndarray) -> float:
    """How many times as often images `inside` (n,) of bool show a cue as those `outside`, at least.

    The lower end of the 95 % interval of the relative risk (Katz et al. 1978); where no image
    outside shows it, as if one did.

    Examples
    --------
    >>> round(lift(np.arange(30) < 15, np.arange(360) < 52), 2)
    2.24
    """
    from scipy.stats.contingency import relative_risk

    ratio = relative_risk(int(inside.sum()), len(inside), max(1, int(outside.sum())), len(outside))
    return float(ratio.confidence_interval(LEVEL).low) if inside.any() else 0.0


def score(
    inside: np.ndarray, outside: np.ndarray, removed: np.ndarray, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """[P(m|c) - P(m|not c)]+ times the mean effect of removal, and its 95 % interval.

    Images of the class, the others, and those of the effect are drawn anew, each for themselves.
    """
    if not (len(inside) and len(outside) and len(removed)):
        return 0.0, (0.0, 0.0)
    rng = np.random.default_rng(seed)

    def means(values: np.ndarray) -> np.ndarray:
        drawn = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
        return np.r_[values.mean(), drawn]

    made = (means(inside) - means(outside)).clip(min=0) * means(removed)
    low, high = np.quantile(made[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(made[0]), (float(low), float(high))


def shares(p: Sequence[float]) -> list[float]:
    """The part of the level that each trial gets, by how sure its frequency is: log(p)^2, sum 1.

    Weighted Bonferroni (Genovese, Roeder and Wasserman 2006): the weights come from frequencies,
    the tests from trials of the model, which know nothing of each other.

    Examples
    --------
    >>> shares([1e-6, 1e-3, 1e-3])
    [0.666..., 0.166..., 0.166...]
    """
    weights = [math.log(max(one, 1e-300)) ** 2 for one in p]
    return [one / sum(weights) for one in weights]


def surely(contrast: float, judged: int, removed: float, put: float, share: float) -> float:
    """The p-value of a cue: the greatest of its three, each corrected.

    That of the frequencies for all candidates `judged`; those of removal, in `WAYS`, and of the
    transplant by the `share` of the level that the cue has.

    Examples
    --------
    >>> surely(1e-4, 100, 0.001, 0.001, 0.5)
    0.01
    """
    return min(1.0, max(contrast * judged, WAYS * removed / share, put / share))
