"""Significance of cues: frequency test, effect sizes, and the score that combines both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..utils.statistics import CONFIDENCE, Estimate, estimate, sign_flip

N_BOOTSTRAP = 2000  # bootstrap resamples
N_FLIPS = 20_000  # sign flips
REMOVAL_WAYS = 2  # ways of removing a cue; the one with the lower p-value counts


@dataclass(frozen=True)
class Effect(Estimate):
    """Mean effect in nats with its 95 % interval, and `p` of a one-sided sign-flip test."""

    p: float = 1.0


def effect(values: np.ndarray, seed: int = 0) -> Effect:
    """Return the mean of values (n,) and its p-value for a mean above 0; NaN and p = 1 if empty.

    Examples
    --------
    >>> effect(np.array([1.0, 1.0, 1.0])).mean
    1.0
    """
    values = np.asarray(values, dtype=np.float64)
    p = sign_flip(values, seed, N_FLIPS, greater=True)
    return Effect(**vars(estimate(values, seed, N_BOOTSTRAP)), p=p)


def fisher_p(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the one-sided p-value of Fisher's exact test for a higher rate inside than outside.

    `inside` and `outside` (n,) of bool tell which images show the cue. The test is the exact
    permutation test of the class labels.

    Examples
    --------
    >>> round(fisher_p(np.array([True, True]), np.array([False, False])), 6)
    0.166667
    """
    from scipy.stats import hypergeom

    total, shown = len(inside) + len(outside), int(inside.sum() + outside.sum())
    return float(hypergeom.sf(int(inside.sum()) - 1, total, shown, len(inside)))


def relative_risk_bound(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the lower 95 % confidence limit of the relative risk of `inside` against `outside`.

    Both are (n,) of bool and tell which images show the cue (Katz et al. 1978). If no image outside
    shows it, one is assumed to.

    Examples
    --------
    >>> round(relative_risk_bound(np.arange(30) < 15, np.arange(360) < 52), 2)
    2.24
    """
    from scipy.stats.contingency import relative_risk

    ratio = relative_risk(int(inside.sum()), len(inside), max(1, int(outside.sum())), len(outside))
    return float(ratio.confidence_interval(CONFIDENCE).low) if inside.any() else 0.0


def score(
    inside: np.ndarray, outside: np.ndarray, removal: np.ndarray, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Return [P(m|c) - P(m|not c)]+ times the mean effect of removal, and its 95 % interval.

    Images of the class, images of other classes and effects are resampled independently.
    """
    if not (len(inside) and len(outside) and len(removal)):
        return 0.0, (0.0, 0.0)
    rng = np.random.default_rng(seed)

    def means(values: np.ndarray) -> np.ndarray:
        resampled = values[rng.integers(len(values), size=(N_BOOTSTRAP, len(values)))].mean(axis=1)
        return np.r_[values.mean(), resampled]

    scores = (means(inside) - means(outside)).clip(min=0) * means(removal)
    low, high = np.quantile(scores[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(scores[0]), (float(low), float(high))


def alpha_weights(p: Sequence[float]) -> list[float]:
    """Return the weight of each cue in alpha, in proportion to log(p)^2 of its frequency.

    Weighted Bonferroni (Genovese, Roeder and Wasserman 2006): the weights come from frequencies and
    the tests from interventions on the model, which are independent of them.

    Examples
    --------
    >>> alpha_weights([1e-6, 1e-3, 1e-3])
    [0.666..., 0.166..., 0.166...]
    """
    weights = [math.log(max(p_value, 1e-300)) ** 2 for p_value in p]
    return [weight / sum(weights) for weight in weights]


def corrected_p(
    frequency: float, n_judged: int, removal: float, transplant: float, alpha_weight: float
) -> float:
    """Return the p-value of a cue, the greatest of its three corrected p-values.

    The p-value of the frequencies is corrected for all `n_judged` candidates; those of removal (in
    `REMOVAL_WAYS` ways) and of the transplant by the cue's `alpha_weight`.

    Examples
    --------
    >>> corrected_p(1e-4, 100, 0.001, 0.001, 0.5)
    0.01
    """
    return min(
        1.0,
        max(frequency * n_judged, REMOVAL_WAYS * removal / alpha_weight, transplant / alpha_weight),
    )
