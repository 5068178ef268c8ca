"""Significance of cues: frequency test, effect sizes, and the score that combines both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..utils.statistics import CONFIDENCE, Estimate, estimate, sign_flip

N_BOOTSTRAP = 2000  # bootstrap resamples
N_FLIPS = 20_000  # sign flips
MIN_OTHERS = 2  # other classes that a test of specificity needs
REMOVAL_WAYS = 2  # ways of removing a cue; the one with the lower p-value counts


@dataclass(frozen=True)
class Effect(Estimate):
    """Mean effect in nats with its 95 % interval, and two one-sided p-values.

    Parameters
    ----------
    p : of a sign-flip test that the mean effect is 0
    specificity : of `specificity_p`, that other classes are affected as much; 0 if not tested
    """

    p: float = 1.0
    specificity: float = 0.0


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


def least_p_of_effect(count: int) -> float:
    """Return the p-value of `effect` for `count` values above 0; none of as many can be lower.

    Examples
    --------
    >>> least_p_of_effect(5)
    0.03125
    """
    return 0.5**count


def class_effect(values: np.ndarray, by_class: np.ndarray, target: int, seed: int = 0) -> Effect:
    """Return the mean effect on a class and whether it is specific to the class.

    Parameters
    ----------
    values : (n,), effects on the log-odds of the class; NaN for images without
    by_class : (n, K), effects on the score of every class, see `specificity_p`
    target : the class
    """
    return replace(effect(values, seed), specificity=specificity_p(by_class, target))


def specificity_p(effects: np.ndarray, target: int) -> float:
    """Return the p-value that an intervention affects a class no more than the other classes.

    A model that was not trained with a cue reacts to it as well: its transplant changes the scores
    of all classes. The mean effects on other classes show how much. If the class is one of them,
    its mean effect is another draw from a normal distribution, and t = (effect - mean) /
    (s sqrt(1 + 1 / m)) of m other classes has Student's distribution with m - 1 degrees of freedom.

    Parameters
    ----------
    effects : (n, K), effects on the score of every class (log-probabilities, or log-odds of
        independent classes) in n images. NaN marks the own class of an image, whose score falls
        with any change of the image; it is left out
    target : the class

    Returns
    -------
    One-sided p-value; 1 without images, and 0 with fewer than `MIN_OTHERS` other classes, because a
    single other class has no standard deviation: such a cue is not tested.

    Examples
    --------
    >>> round(specificity_p(np.array([[3.0, 1.0, 0.0, -1.0]]), target=0), 3)
    0.061
    """
    from scipy.stats import t as student

    mean_effect = mean_of_valid(np.asarray(effects, dtype=np.float64))[target]
    if np.isnan(mean_effect):
        return 1.0
    others = means_of_others(effects, target)
    if len(others) < MIN_OTHERS:
        return 0.0
    excess = mean_effect - others.mean()
    scale = others.std(ddof=1) * math.sqrt(1 + 1 / len(others))
    if scale == 0:
        return 0.0 if excess > 0 else 1.0
    return float(student.sf(excess / scale, len(others) - 1))


def means_of_others(effects: np.ndarray, target: int) -> np.ndarray:
    """Return the mean effects (m,) on the other classes, without those that no image shows.

    Parameters are those of `specificity_p`.
    """
    means = np.delete(mean_of_valid(np.asarray(effects, dtype=np.float64)), target)
    return means[~np.isnan(means)]


def mean_of_valid(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis without NaN; NaN without values."""
    is_valid = ~np.isnan(values)
    count = is_valid.sum(axis=0)
    total = np.where(is_valid, values, 0).sum(axis=0)
    mean: np.ndarray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def fisher_p(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the one-sided p-value of Fisher's exact test for a higher rate inside than outside.

    `inside` and `outside` (n,) of bool tell which images show the cue. The test is the exact
    permutation test of the class labels.

    Examples
    --------
    >>> round(fisher_p(np.array([True, True]), np.array([False, False])), 6)
    0.166667
    """
    return fisher_p_of_counts(int(inside.sum()), len(inside), int(outside.sum()), len(outside))


def fisher_p_of_counts(inside: int, n_inside: int, outside: int, n_outside: int) -> float:
    """Return the p-value of `fisher_p` for counts of images that show the cue.

    Examples
    --------
    >>> round(fisher_p_of_counts(3, 30, 0, 360), 6)
    0.000414
    """
    from scipy.stats import hypergeom

    return float(hypergeom.sf(inside - 1, n_inside + n_outside, inside + outside, n_inside))


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
    frequency: float,
    n_judged: int,
    removal: Effect,
    transplant: Effect,
    alpha_weight: float,
    removal_ways: int = REMOVAL_WAYS,
) -> float:
    """Return the p-value of a cue, the greatest of its corrected p-values.

    The p-value of the frequencies is corrected for all `n_judged` candidates. Those of removal (in
    `removal_ways` ways), of the transplant, and of the specificity of the transplant are corrected
    by the cue's `alpha_weight`. Removal has no test of specificity: in images of the class, the
    class is the right answer and not exchangeable with the others.

    Examples
    --------
    >>> changed = Effect(1.0, 0.5, 1.5, 30, p=0.001, specificity=0.001)
    >>> corrected_p(1e-4, 100, changed, changed, 0.5)
    0.01
    """
    tests = (removal_ways * removal.p, transplant.p, transplant.specificity)
    return min(1.0, max(frequency * n_judged, max(tests) / alpha_weight))
