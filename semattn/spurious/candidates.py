"""Candidate cues of a class: kinds of off-object patches that the class shows more often.

A linear discriminant on whitened features separates the patches of the class from those of other
classes; the patches with the highest scores are clustered. Every image is judged by a probe that
was fitted on other folds, so that a class without a cue shows no more than chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .projection import Space, whiten
from .significance import contrast_p

FOLDS = 3
CLUSTERS = (3, 6)  # cluster counts that are tried
SURE = 0.9  # quantile of other classes' scores that a patch of the class must exceed
FEWEST = 15  # least patches of a cluster
IN_FOLD = 5  # least patches of a cluster in the training folds of each fold
SAME = 0.5  # two candidates that share more than this fraction of the smaller one are duplicates


@dataclass(frozen=True, eq=False)
class Patches:
    """Patches of n images, one class against the others.

    Parameters
    ----------
    values : (n, P, D), coordinates in a `Space`
    off_object : (n, P), patches that are not on the object
    in_class : (n,), images of the class
    fold : (n,), cross-validation fold of each image
    """

    values: np.ndarray
    off_object: np.ndarray
    in_class: np.ndarray
    fold: np.ndarray


@dataclass(frozen=True, eq=False)
class Candidate:
    """Kind of patches that may be a cue.

    Parameters
    ----------
    patch_mask : (n, P), patches of this kind
    has_cue : (n,), images that show it, judged by probes that were fitted on other folds
    p : p-value of Fisher's exact test
    """

    patch_mask: np.ndarray
    has_cue: np.ndarray
    p: float


def find_candidates(patches: Patches, space: Space, seed: int) -> list[Candidate]:
    """Return all candidates by increasing p-value.

    There are none if too few images have patches off the object.
    """
    candidates: list[Candidate] = []
    off_object = patches.off_object
    if not all(off_object[rows].any() for split in _training_splits(patches) for rows in split):
        return candidates
    for part in (space.object_axes, slice(None)):
        features = patches.values[..., part]
        step = max(1, int(off_object.sum()) // 60_000)
        white = whiten(features[off_object][::step])
        candidates += list(_candidates(patches, white(features), seed))
    return sorted(candidates, key=lambda candidate: candidate.p)


def select_distinct(
    candidates: list[Candidate], in_class: np.ndarray, most: int
) -> list[Candidate]:
    """Return the first `most` candidates of which no two share most of their patches."""
    selected: list[Candidate] = []
    for candidate in candidates:
        patches = candidate.patch_mask[in_class] & candidate.has_cue[in_class, None]
        selected_patches = [
            previous.patch_mask[in_class] & previous.has_cue[in_class, None]
            for previous in selected
        ]
        if all(overlap_fraction(patches, other) <= SAME for other in selected_patches):
            selected.append(candidate)
        if len(selected) == most:
            break
    return selected


def overlap_fraction(first: np.ndarray, second: np.ndarray) -> float:
    """Return the fraction of the smaller set of patches that is also in the other set."""
    return float((first & second).sum() / max(1, min(first.sum(), second.sum())))


def _candidates(patches: Patches, values: np.ndarray, seed: int) -> Iterator[Candidate]:
    from sklearn.cluster import KMeans

    in_class, off_object, fold = patches.in_class, patches.off_object, patches.fold
    probes, other_means = (
        [_mean_patch(values, off_object, rows) for rows in parts]
        for parts in zip(*_training_splits(patches), strict=True)
    )
    probe = _cross_fold_scores(values, fold, probes, other_means)
    yield _make_candidate(patches, probe, _log_odds(values, probes[-1], other_means[-1]))
    threshold = np.quantile(probe[~in_class][off_object[~in_class]], SURE)
    is_confident = (probe > threshold) & off_object & in_class[:, None]
    points = values[is_confident]
    point_folds = np.broadcast_to(fold[:, None], is_confident.shape)[is_confident]
    for count in CLUSTERS:
        if len(points) < count * FEWEST:
            return
        labels = KMeans(count, n_init=2, random_state=seed).fit_predict(points)
        for number in range(count):
            member = labels == number
            folds = [member & (point_folds != index) for index in range(FOLDS)] + [member]
            if member.sum() < FEWEST or min(rows.sum() for rows in folds) < IN_FOLD:
                continue
            means = [points[rows].mean(axis=0) for rows in folds]
            scores = _cross_fold_scores(values, fold, means, other_means)
            yield _make_candidate(patches, scores, _log_odds(values, means[-1], other_means[-1]))


def _training_splits(patches: Patches) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the training images (of the class, of the others) of each fold, then of all folds."""
    in_class, fold = patches.in_class, patches.fold
    parts = [fold != number for number in range(FOLDS)] + [np.ones(len(in_class), bool)]
    return [(part & in_class, part & ~in_class) for part in parts]


def _mean_patch(values: np.ndarray, off: np.ndarray, images: np.ndarray) -> np.ndarray:
    mean: np.ndarray = values[images][off[images]].mean(axis=0)
    return mean


def _log_odds(values: np.ndarray, mean: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the log-odds of two classes of unit covariance and equal priors: (…, D) to (…)."""
    direction = mean - other
    log_odds: np.ndarray = values @ direction - (mean + other) @ direction / 2
    return log_odds


def _cross_fold_scores(
    values: np.ndarray, fold: np.ndarray, means: list[np.ndarray], others: list[np.ndarray]
) -> np.ndarray:
    """Score each image with the means that were computed without its fold."""
    scores = np.empty(values.shape[:2], np.float32)
    for number in range(FOLDS):
        in_fold = fold == number
        scores[in_fold] = _log_odds(values[in_fold], means[number], others[number])
    return scores


def _make_candidate(patches: Patches, scores: np.ndarray, final: np.ndarray) -> Candidate:
    """Make a candidate; the least number of patches that shows it comes from the other folds."""
    in_class, fold = patches.in_class, patches.fold
    count = ((scores > 0) & patches.off_object).sum(axis=1)
    has_cue = np.zeros(len(in_class), bool)
    for number in range(FOLDS):
        in_training = fold != number
        has_cue[~in_training] = count[~in_training] >= _best_threshold(
            count[in_training & in_class], count[in_training & ~in_class]
        )
    return Candidate(final > 0, has_cue, contrast_p(has_cue[in_class], has_cue[~in_class]))


def _best_threshold(inside: np.ndarray, outside: np.ndarray) -> int:
    """Return the number of patches that separates the class from the others best."""
    greatest = int(max(inside.max(initial=1), outside.max(initial=1)))
    thresholds = np.arange(1, greatest + 1)
    inside_rate = 1 - np.searchsorted(np.sort(inside), thresholds) / max(1, len(inside))
    outside_rate = 1 - np.searchsorted(np.sort(outside), thresholds) / max(1, len(outside))
    return int(thresholds[np.argmax(inside_rate - outside_rate)])
