"""Candidates for cues of a class: kinds of patches off the object that the class shows more often.

A probe tells patches of the class from those of other classes by linear discriminant analysis on
whitened features; what it is surest of is clustered. Everything that is judged is judged on images
that it was not learned from (folds): a class with nothing to find shows no more than chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .evidence import contrast_p
from .space import Space, whiten

FOLDS = 3
CLUSTERS = (3, 6)
SURE = 0.9  # quantile of other classes' scores that a patch of the class must exceed
FEWEST = 15  # patches of a cluster
IN_FOLD = 5  # of its patches that the folds it learns from must have
SAME = 0.5  # of the smaller one's patches: two candidates that share so many are one


@dataclass(frozen=True, eq=False)
class Patches:
    """What is known of n images, one class against others.

    Parameters
    ----------
    values : (n, P, D) in a `Space`
    off : (n, P), patches that may be looked at: not on the object
    mine : (n,), images of the class
    fold : (n,)
    """

    values: np.ndarray
    off: np.ndarray
    mine: np.ndarray
    fold: np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """One kind of patches: `like` (n, P) finds them, `bears` (n,) says which images show it.

    `bears` comes from images that it was not learned from; `p` is Fisher's.
    """

    like: np.ndarray
    bears: np.ndarray
    p: float


def find(patches: Patches, space: Space, seed: int) -> list[Candidate]:
    """All candidates, the surest first; none where too few images have a patch off the object."""
    found: list[Candidate] = []
    if not all(patches.off[part].any() for one in _learned(patches) for part in one):
        return found
    for part in (space.things, slice(None)):
        own = patches.values[..., part]
        white = whiten(own[patches.off][:: max(1, int(patches.off.sum()) // 60_000)])
        found += list(_candidates(patches, white(own), seed))
    return sorted(found, key=lambda one: one.p)


def distinct(candidates: list[Candidate], mine: np.ndarray, most: int) -> list[Candidate]:
    """The first ones that do not share most of their patches, `most` of them."""
    kept: list[Candidate] = []
    for one in candidates:
        marks = one.like[mine] & one.bears[mine, None]
        others = [other.like[mine] & other.bears[mine, None] for other in kept]
        if all(shared(marks, other) <= SAME for other in others):
            kept.append(one)
        if len(kept) == most:
            break
    return kept


def shared(one: np.ndarray, other: np.ndarray) -> float:
    """The part of the smaller set of patches that lies in the other too."""
    return float((one & other).sum() / max(1, min(one.sum(), other.sum())))


def _candidates(patches: Patches, values: np.ndarray, seed: int) -> Iterator[Candidate]:
    from sklearn.cluster import KMeans

    mine, off, fold = patches.mine, patches.off, patches.fold
    probes, others = (
        [_mean(values, off, part) for part in parts]
        for parts in zip(*_learned(patches), strict=True)
    )
    probe = _by_fold(values, fold, probes, others)
    yield _judged(patches, probe, _scores(values, probes[-1], others[-1]))
    sure = (probe > np.quantile(probe[~mine][off[~mine]], SURE)) & off & mine[:, None]
    points, whose = values[sure], np.broadcast_to(fold[:, None], sure.shape)[sure]
    for count in CLUSTERS:
        if len(points) < count * FEWEST:
            return
        labels = KMeans(count, n_init=2, random_state=seed).fit_predict(points)
        for number in range(count):
            member = labels == number
            folds = [member & (whose != one) for one in range(FOLDS)] + [member]
            if member.sum() < FEWEST or min(one.sum() for one in folds) < IN_FOLD:
                continue
            means = [points[one].mean(axis=0) for one in folds]
            scores = _by_fold(values, fold, means, others)
            yield _judged(patches, scores, _scores(values, means[-1], others[-1]))


def _learned(patches: Patches) -> list[tuple[np.ndarray, np.ndarray]]:
    """What each fold is judged by, and at last all: images of the class, and of the others."""
    mine, fold = patches.mine, patches.fold
    parts = [fold != number for number in range(FOLDS)] + [np.ones(len(mine), bool)]
    return [(part & mine, part & ~mine) for part in parts]


def _mean(values: np.ndarray, off: np.ndarray, images: np.ndarray) -> np.ndarray:
    made: np.ndarray = values[images][off[images]].mean(axis=0)
    return made


def _scores(values: np.ndarray, mean: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Log-odds of two kinds of unit covariance, alike in number: (…, D) to (…)."""
    along = mean - other
    made: np.ndarray = values @ along - (mean + other) @ along / 2
    return made


def _by_fold(
    values: np.ndarray, fold: np.ndarray, means: list[np.ndarray], others: list[np.ndarray]
) -> np.ndarray:
    """The scores of each image by what was learned without its fold."""
    made = np.empty(values.shape[:2], np.float32)
    for number in range(FOLDS):
        here = fold == number
        made[here] = _scores(values[here], means[number], others[number])
    return made


def _judged(patches: Patches, scores: np.ndarray, final: np.ndarray) -> Candidate:
    """An image shows it with as many patches as tell the class best in the other folds."""
    mine, fold = patches.mine, patches.fold
    count = ((scores > 0) & patches.off).sum(axis=1)
    bears = np.zeros(len(mine), bool)
    for number in range(FOLDS):
        part = fold != number
        bears[~part] = count[~part] >= _needed(count[part & mine], count[part & ~mine])
    return Candidate(final > 0, bears, contrast_p(bears[mine], bears[~mine]))


def _needed(inside: np.ndarray, outside: np.ndarray) -> int:
    """How many patches tell the counts of the class from those of the others best."""
    most = int(max(inside.max(initial=1), outside.max(initial=1)))
    levels = np.arange(1, most + 1)
    with_it = 1 - np.searchsorted(np.sort(inside), levels) / max(1, len(inside))
    without = 1 - np.searchsorted(np.sort(outside), levels) / max(1, len(outside))
    return int(levels[np.argmax(with_it - without)])
