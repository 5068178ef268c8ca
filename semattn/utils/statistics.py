"""Bootstrap confidence intervals, paired differences, and corrected p-values.

Only images are resampled, never patches or pixels. NaN marks an image without a value (such as the
pointing game without an object); it is left out, in paired comparisons from both methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """Mean over `count` images, with its 95 % percentile interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Difference(Estimate):
    """Paired difference; `p` is from a sign-flip test, `corrected` is after Holm's correction."""

    p: float = 1.0
    corrected: float = 1.0


def estimate(values: np.ndarray, seed: int = 0, n_bootstrap: int = N_RESAMPLES) -> Estimate:
    """Return the mean of values (n,), with its confidence interval."""
    valid = values[~np.isnan(values)]
    if not len(valid):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    means = valid[rng.integers(len(valid), size=(n_bootstrap, len(valid)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(valid.mean()), float(low), float(high), len(valid))


def difference(
    first: np.ndarray, second: np.ndarray, seed: int = 0, n_bootstrap: int = N_RESAMPLES
) -> Difference:
    """Return the mean of `first` - `second` (n,), with its interval and a sign-flip test."""
    pairs = first - second
    interval, p = estimate(pairs, seed, n_bootstrap), sign_flip(pairs, seed, n_bootstrap)
    return Difference(interval.mean, interval.low, interval.high, interval.count, p, p)


def sign_flip(
    values: np.ndarray, seed: int = 0, n_permutations: int = N_RESAMPLES, *, greater: bool = False
) -> float:
    """Return the p-value of a sign-flip test that the mean of values (n,) is 0; 1 without values.

    The test is two-sided, or one-sided with `greater`. The observed signs count as one draw, so p
    is never 0.
    """
    valid = values[~np.isnan(values)]
    if not len(valid):
        return 1.0
    rng = np.random.default_rng((seed, 1))
    signs = 2 * rng.integers(2, size=(n_permutations, len(valid)), dtype=np.int8) - 1
    flipped, mean = (signs * valid).mean(axis=1), valid.mean()
    if not greater:
        flipped, mean = np.abs(flipped), abs(mean)
    extreme = int((flipped >= mean - 1e-12 * np.abs(valid).mean()).sum())
    return (1 + extreme) / (1 + n_permutations)


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for multiple tests (Holm 1979), each at most 1.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    corrected, least = [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - place) * p[index]))
        corrected[index] = least
    return corrected
