"""Candidate cues of a class: kinds of off-object patches that the class shows more often.

Patches are off the object if they are not salient, or salient at a fixed place of the class.
A linear discriminant on whitened features separates the patches of the class from those of other
classes; the patches with the highest scores are clustered. Every image is judged by a probe that
was fitted on other folds, so that a class without a cue shows no more than chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .projection import FeatureProjection, fit_whitening
from .significance import fisher_p

FOLDS = 3
CLUSTER_COUNTS = (3, 6)  # numbers of clusters that are tried
PROBE_QUANTILE = 0.9  # quantile of other classes' scores that a patch of the class must exceed
MIN_CLUSTER = 15  # least patches of a cluster
MIN_IN_FOLD = 5  # least patches of a cluster in the training folds of each fold
MAX_OVERLAP = (
    0.5  # two candidates that share more than this fraction of the smaller one are duplicates
)
FIXED_EXCESS = (
    0.3  # excess rate of salience over other classes, above which a place is not the object
)
REPEATED_OVERLAP = 0.85  # overlap of the salient regions of two images that counts as the same mark
MIN_REPEATED = 0.1  # least fraction of the other images that share a salient region, to be a mark
# Greatest perimeter of a salient region, relative to that of a square of the same area, that is
# taken for the whole object. On 260 compositions of the training split, whose masks are known,
# 3.0 % of the patches of the object count as off the object; 1.2 % with this limit, which leaves
# out a quarter of the images; 1.0 % with a limit of 1.5, which leaves out 39 %.
MAX_PERIMETER = 1.75
MIN_NEARBY = 0.7  # fraction of its patches near another candidate, above which it is part of that
AROUND = 2  # distance in patches of the surroundings of a region
FIXED_OVERLAP = 0.4  # mean overlap between two images, above which a cue has a fixed place


@dataclass(frozen=True, eq=False)
class ClassPatches:
    """Patches of n images, one class against the others.

    Parameters
    ----------
    values : (n, P, D), coordinates of a `FeatureProjection`
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


def find_candidates(
    patches: ClassPatches, projection: FeatureProjection, seed: int
) -> list[Candidate]:
    """Return all candidates by increasing p-value.

    There are none if too few images have patches off the object.
    """
    candidates: list[Candidate] = []
    off_object = patches.off_object
    if not all(off_object[rows].any() for split in _training_splits(patches) for rows in split):
        return candidates
    for part in (projection.object_axes, slice(None)):
        features = patches.values[..., part]
        step = max(1, int(off_object.sum()) // 60_000)
        whitening = fit_whitening(features[off_object][::step])
        candidates += list(_candidates(patches, whitening(features), seed))
    return sorted(candidates, key=lambda candidate: candidate.p)


def select_distinct(
    candidates: list[Candidate], in_class: np.ndarray, max_candidates: int
) -> list[Candidate]:
    """Return the first `max_candidates` candidates of which no two share most of their patches."""
    selected: list[Candidate] = []
    for candidate in candidates:
        patches = candidate.patch_mask[in_class] & candidate.has_cue[in_class, None]
        selected_patches = [
            previous.patch_mask[in_class] & previous.has_cue[in_class, None]
            for previous in selected
        ]
        if all(overlap_fraction(patches, other) <= MAX_OVERLAP for other in selected_patches):
            selected.append(candidate)
        if len(selected) == max_candidates:
            break
    return selected


def overlap_fraction(first: np.ndarray, second: np.ndarray) -> float:
    """Return the fraction of the smaller set of patches that is also in the other set."""
    return float((first & second).sum() / max(1, min(first.sum(), second.sum())))


def _candidates(patches: ClassPatches, values: np.ndarray, seed: int) -> Iterator[Candidate]:
    from sklearn.cluster import KMeans

    in_class, off_object, fold = patches.in_class, patches.off_object, patches.fold
    probes, other_means = (
        [_mean_patch(values, off_object, rows) for rows in parts]
        for parts in zip(*_training_splits(patches), strict=True)
    )
    probe = _cross_fold_scores(values, fold, probes, other_means)
    yield _make_candidate(patches, probe, _log_odds(values, probes[-1], other_means[-1]))
    threshold = np.quantile(probe[~in_class][off_object[~in_class]], PROBE_QUANTILE)
    is_confident = (probe > threshold) & off_object & in_class[:, None]
    points = values[is_confident]
    point_folds = np.broadcast_to(fold[:, None], is_confident.shape)[is_confident]
    for count in CLUSTER_COUNTS:
        if len(points) < count * MIN_CLUSTER:
            return
        labels = KMeans(count, n_init=2, random_state=seed).fit_predict(points)
        for number in range(count):
            member = labels == number
            folds = [member & (point_folds != index) for index in range(FOLDS)] + [member]
            if member.sum() < MIN_CLUSTER or min(rows.sum() for rows in folds) < MIN_IN_FOLD:
                continue
            means = [points[rows].mean(axis=0) for rows in folds]
            scores = _cross_fold_scores(values, fold, means, other_means)
            yield _make_candidate(patches, scores, _log_odds(values, means[-1], other_means[-1]))


def _training_splits(patches: ClassPatches) -> list[tuple[np.ndarray, np.ndarray]]:
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


def _make_candidate(patches: ClassPatches, scores: np.ndarray, final: np.ndarray) -> Candidate:
    """Make a candidate; the least number of patches that shows it comes from the other folds."""
    in_class, fold = patches.in_class, patches.fold
    count = ((scores > 0) & patches.off_object).sum(axis=1)
    has_cue = np.zeros(len(in_class), bool)
    for number in range(FOLDS):
        in_training = fold != number
        has_cue[~in_training] = count[~in_training] >= _best_threshold(
            count[in_training & in_class], count[in_training & ~in_class]
        )
    return Candidate(final > 0, has_cue, fisher_p(has_cue[in_class], has_cue[~in_class]))


def _best_threshold(inside: np.ndarray, outside: np.ndarray) -> int:
    """Return the number of patches that separates the class from the others best."""
    greatest = int(max(inside.max(initial=1), outside.max(initial=1)))
    thresholds = np.arange(1, greatest + 1)
    inside_rate = 1 - np.searchsorted(np.sort(inside), thresholds) / max(1, len(inside))
    outside_rate = 1 - np.searchsorted(np.sort(outside), thresholds) / max(1, len(outside))
    return int(thresholds[np.argmax(inside_rate - outside_rate)])


def object_patches(objectness: np.ndarray) -> np.ndarray:
    """Return the patches above the mean objectness of their image: (n, P) to (n, P) of bool."""
    return objectness > objectness.mean(axis=1, keepdims=True)


def background_patches(
    on_object: np.ndarray, fixed: np.ndarray, repeated: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Return the patches that are neither on the object nor next to it.

    Salient patches at a fixed place are not the object: objects move, marks do not. A mark may draw
    the salience of the whole image. If most salient patches are of a repeated region, the object is
    not located: no patches but those of `fixed` count as off the object.

    Parameters
    ----------
    on_object : (n, P), see `object_patches`
    fixed : (P,) or (n, P), marks of a class, which always count as off the object
    repeated : (P,), see `repeated_patches`
    shape : (h, w)
    """
    from scipy.ndimage import maximum_filter

    moving = (on_object & ~fixed).reshape(-1, *shape)
    dilated = maximum_filter(moving, size=(1, 3, 3), mode="constant").reshape(on_object.shape)
    is_located = (on_object & repeated).sum(axis=1) <= on_object.sum(axis=1) / 2
    return (~dilated & is_located[:, None]) | np.broadcast_to(fixed, on_object.shape)


def is_compact(salient: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return whether the salient patches (n, P) of each image are a compact region: (n,).

    Salience that is scattered over an image shows parts of the object only; the other parts would
    be taken for its surroundings.
    """
    compact: np.ndarray = perimeter_ratio(salient, shape) <= MAX_PERIMETER
    return compact


def perimeter_ratio(patches: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the perimeter of patches (n, P) relative to that of a square of the same area: (n,).

    Sides on the border of the image do not count. The result is 0 without patches.

    Examples
    --------
    >>> square = np.zeros((4, 4), bool)
    >>> square[1:3, 1:3] = True
    >>> scattered = np.eye(4, dtype=bool)[[0, 2, 1, 3]]
    >>> perimeter_ratio(np.stack([square, scattered]).reshape(2, 16), (4, 4)).tolist()
    [1.0, 1.5]
    """
    regions = patches.reshape(-1, *shape)
    sides = np.diff(regions, axis=1).sum(axis=(1, 2)) + np.diff(regions, axis=2).sum(axis=(1, 2))
    ratio: np.ndarray = sides / (4 * np.sqrt(np.maximum(1, patches.sum(axis=1))))
    return ratio


def fixed_patches(on_object: np.ndarray, in_class: np.ndarray) -> np.ndarray:
    """Return the patches (P,) that are salient in a class more often than in other classes."""
    excess = on_object[in_class].mean(axis=0) - on_object[~in_class].mean(axis=0)
    fixed: np.ndarray = excess > FIXED_EXCESS
    return fixed


def repeated_patches(on_object: np.ndarray) -> np.ndarray:
    """Return the patches (P,) of a salient region that many of the images share.

    Objects move, so the salient regions of two images hardly ever coincide, unless both are the
    same mark. At least `FOLDS` other images must share the region.
    """
    patches = on_object.astype(np.float32)
    count, intersection = patches.sum(axis=1), patches @ patches.T
    union = np.maximum(count[:, None] + count[None] - intersection, 1)
    partners = (intersection > REPEATED_OVERLAP * union).sum(axis=1) - count.astype(bool)
    is_shared = partners >= max(FOLDS, MIN_REPEATED * (len(patches) - 1))
    repeated: np.ndarray = on_object[is_shared].sum(axis=0) > is_shared.sum() / 2
    return repeated


def surroundings(patches: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the patches (n, P) within `AROUND` patches of `patches`, without these."""
    from scipy.ndimage import maximum_filter

    side = 2 * AROUND + 1
    dilated = maximum_filter(patches.reshape(-1, *shape), size=(1, side, side), mode="constant")
    around: np.ndarray = dilated.reshape(patches.shape) & ~patches
    return around


def rank_of_place(salient: np.ndarray, patches: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return how salient the surroundings of a region are among all its places in its image: (n,).

    The region is moved to each place inside the image. The result is the part of the places whose
    surroundings are less salient; places that are level count as half.

    Parameters
    ----------
    salient : (n, P), salient patches
    patches : (n, P), the region, at least one patch of each image

    Examples
    --------
    >>> image = np.array([[False, False, True, True, True, False, False, False]])
    >>> region = np.array([[False, False, False, True, False, False, False, False]])
    >>> rank_of_place(image, region, (1, 8)).tolist()
    [0.5625]
    """
    from scipy.signal import correlate2d

    inside = np.pad(np.ones(shape), AROUND)
    ranks = []
    for of_image, region in zip(salient.reshape(-1, *shape), patches.reshape(-1, *shape),
                                strict=True):  # fmt: skip
        rows, columns = np.nonzero(region)
        first = (rows.min(), columns.min())
        box = np.pad(region[first[0] : rows.max() + 1, first[1] : columns.max() + 1], AROUND)
        around = surroundings(box.reshape(1, -1), box.shape).reshape(box.shape).astype(float)
        counts = correlate2d(np.pad(of_image.astype(float), AROUND), around, "valid")
        parts = counts / correlate2d(inside, around, "valid").clip(min=1)
        here = parts[first]
        ranks.append(((parts < here).mean() + (parts <= here).mean()) / 2)
    return np.array(ranks)


def nearby_fraction(patches: np.ndarray, others: np.ndarray, shape: tuple[int, int]) -> float:
    """Return the fraction of `patches` (n, P) within two patches of `others` (n, P), per image.

    Two parts of one object may have a patch between them, because each ends within a patch. Images
    without patches of both kinds are left out; the result is 0 if no image has both.
    """
    has_both = patches.any(axis=1) & others.any(axis=1)
    near = others[has_both] | surroundings(others[has_both], shape)
    return float((patches[has_both] & near).sum() / max(1, patches[has_both].sum()))


def mean_overlap(patches: np.ndarray) -> float:
    """Return the mean overlap (intersection over union) of patches (n, P) between two images."""
    patches = patches[patches.any(axis=1)].astype(np.float32)
    if len(patches) < 2:
        return float("nan")
    intersection = patches @ patches.T
    count = patches.sum(axis=1)
    overlap = intersection / (count[:, None] + count[None] - intersection)
    return float((overlap.sum() - len(patches)) / (len(patches) * (len(patches) - 1)))
