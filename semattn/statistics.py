"""From numbers of images to a table: intervals by bootstrap, differences in pairs, corrected.

Images are what is drawn at random; patches and pixels never are. NaN is an image for which a
metric says nothing (the pointing game without an object): it is left out, of both of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `count` images, and its 95 % percentile interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Difference(Estimate):
    """A paired difference; `p` is of a sign-flip test, `corrected` after Holm's correction."""

    p: float = 1.0
    corrected: float = 1.0


def estimate(values: np.ndarray, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Mean of values (n,), with its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    rng = np.random.default_rng(seed)
    drawn = known[rng.integers(len(known), size=(draws, len(known)))].mean(axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(known.mean()), float(low), float(high), len(known))


def difference(one: np.ndarray, other: np.ndarray, seed: int = 0, draws: int = DRAWS) -> Difference:
    """`one` less `other`, image by image (n,), with its interval and a sign-flip test."""
    pairs = one - other
    found, p = estimate(pairs, seed, draws), sign_flip(pairs, seed, draws)
    return Difference(found.mean, found.low, found.high, found.count, p, p)


def sign_flip(
    values: np.ndarray, seed: int = 0, draws: int = DRAWS, *, greater: bool = False
) -> float:
    """How often signs that are drawn at random give values (n,) a mean as far from 0; 1 of none.

    With `greater`, as far above it. The data as they are count as one draw: p is never 0.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return 1.0
    rng = np.random.default_rng((seed, 1))
    signs = 2 * rng.integers(2, size=(draws, len(known)), dtype=np.int8) - 1
    by_chance, mean = (signs * known).mean(axis=1), known.mean()
    if not greater:
        by_chance, mean = np.abs(by_chance), abs(mean)
    extreme = int((by_chance >= mean - 1e-12 * np.abs(known).mean()).sum())
    return (1 + extreme) / (1 + draws)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), each at most 1.

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
