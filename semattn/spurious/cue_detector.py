"""Detectors of cues, and the candidate cues of a class with their detectors.

A detector consists of two logistic regressions: on patches, and on the number of matching patches
of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from . import candidates
from .batch_store import strided
from .candidates import Candidate
from .feature_store import FeatureStore, gather_patches
from .projection import FeatureProjection
from .significance import relative_risk_bound

INVERSE_REGULARISATION = 0.1  # inverse regularisation strength C
MAX_PATCHES = 8000  # training patches with the cue, and without it, at most
MAX_REFERENCE = 1300  # images that a class is compared with, at most
MAX_CLASS_IMAGES = 400  # images of a class that are used, at most
MIN_SHARED_IMAGES = 0.7  # fraction of the images of a candidate that show another, to be its part
# Names of the arrays of one candidate in the store.
ARRAYS = (
    "rows", "in_class", "fixed", "repeated", "patch_mask", "has_cue", "marks", "weights", "numbers",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class CueDetector:
    """Probability that each patch shows the cue: that of the patch times that of its image.

    Parameters
    ----------
    weights, offset : logistic regression on the features (E,) of a patch
    slope, start : logistic regression on log(1 + number of patches with a positive score)
    """

    weights: np.ndarray
    offset: float
    slope: float
    start: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the log-odds of each patch on its own: (B, P, E) to (B, P)."""
        scores: np.ndarray = features @ self.weights + self.offset
        return scores

    def image_probability(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that each image shows the cue: (B, P, E) to (B,)."""
        count = (self.scores(features) > 0).sum(axis=-1)
        return _sigmoid(self.slope * np.log1p(count) + self.start)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that each patch shows the cue: (B, P, E) to (B, P)."""
        return _sigmoid(self.scores(features)) * self.image_probability(features)[:, None]

    def for_features(self, projection: FeatureProjection) -> CueDetector:
        """Return the same detector for features (…, E) instead of coordinates."""
        weights = projection.axes @ self.weights
        offset = float(self.offset - projection.mean @ weights)
        return CueDetector(weights, offset, self.slope, self.start)


def fit_detector(
    values: np.ndarray,
    patch_mask: np.ndarray,
    has_cue: np.ndarray,
    without_cue: np.ndarray,
    seed: int,
) -> CueDetector:
    """Fit the detector of a candidate.

    Parameters
    ----------
    values : (n, P, D)
    patch_mask : (n, P), patches of the candidate
    has_cue : (n,), images that show it
    without_cue : (n,), images of other classes that do not show it
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)

    def subsample(patches: np.ndarray) -> np.ndarray:
        return (
            patches
            if len(patches) <= MAX_PATCHES
            else patches[rng.permutation(len(patches))[:MAX_PATCHES]]
        )

    # Patches without the cue are subsampled before they are gathered, to bound the memory.
    rows = np.flatnonzero(without_cue)
    draws = rng.choice(
        len(rows) * values.shape[1], min(MAX_PATCHES, len(rows) * values.shape[1]), False
    )
    inside = subsample(values[has_cue][patch_mask[has_cue]])
    outside = values[rows[draws // values.shape[1]], draws % values.shape[1]]
    is_cue = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    patch = LogisticRegression(C=INVERSE_REGULARISATION, class_weight="balanced", max_iter=300).fit(
        np.concatenate([inside, outside]), is_cue
    )
    weights = patch.coef_[0].astype(np.float32)
    offset = float(patch.intercept_[0])
    count = np.log1p((values @ weights + offset > 0).sum(axis=-1))
    image = LogisticRegression(class_weight="balanced").fit(count[:, None], has_cue)
    return CueDetector(weights, offset, float(image.coef_[0, 0]), float(image.intercept_[0]))


@dataclass(frozen=True, eq=False)
class CandidateCue:
    """Candidate that may be tested: the rows that it was judged on, and its detector.

    Parameters
    ----------
    target : the class
    rows : (n,), rows of the class and of other classes
    in_class : (n,), rows of the class
    fixed : (P,), patches that are salient at a fixed place of the class
    repeated : (P,), patches of a salient region that many images share, of the class or of all
    candidate, detector : patches and images with the cue, and the detector on coordinates
    marks : (rows of the class, P), patches that the detector matches
    """

    target: int
    rows: np.ndarray
    in_class: np.ndarray
    fixed: np.ndarray
    repeated: np.ndarray
    candidate: Candidate
    detector: CueDetector
    marks: np.ndarray

    @property
    def p(self) -> float:
        """P-value of the frequency, not corrected."""
        return self.candidate.p

    @property
    def relative_risk(self) -> float:
        """Lower 95 % confidence limit of the relative risk, class against others."""
        has_cue = self.candidate.has_cue
        return relative_risk_bound(has_cue[self.in_class], has_cue[~self.in_class])


class Reference(NamedTuple):
    """Images that every class is compared with: rows, labels, and arrays from the store.

    `shape` is that of the patch grid, `projection` that of the features.
    """

    rows: np.ndarray
    labels: np.ndarray
    arrays: dict[str, np.ndarray]
    shape: tuple[int, int]
    projection: FeatureProjection


class ClassImages(NamedTuple):
    """Images of a class that are compared: their rows, and their places in the store."""

    target: int
    rows: np.ndarray
    places: list[tuple[int, int]]


def reference_images(store: FeatureStore) -> Reference:
    """Return at most `MAX_REFERENCE` evenly spaced images of all classes."""
    rows = strided(np.arange(len(store)), MAX_REFERENCE)
    index = store.index
    return Reference(
        rows, index.labels[rows], store.gather(rows), index.grid.shape, store.projection
    )


def class_images(store: FeatureStore, target: int) -> ClassImages:
    """Return at most `MAX_CLASS_IMAGES` evenly spaced images of a class."""
    rows = strided(np.flatnonzero(store.index.labels == target), MAX_CLASS_IMAGES)
    return ClassImages(target, rows, [store.index.places[row] for row in rows])


def compare_class(
    images: ClassImages, reference: Reference, load: Callable[[int], dict[str, np.ndarray]],
    max_candidates: int, seed: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the candidates of a class as arrays, computed by one thread.

    More threads would change the last digits, and classes are compared by several processes.

    Parameters
    ----------
    images, reference : images of the class, and images to compare with
    load : function that returns the arrays of a stored batch
    max_candidates, seed : as for `semattn.discover_spurious`
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        class_arrays = gather_patches(images.places, load)
        cues = find_candidate_cues(images, class_arrays, reference, max_candidates, seed)
    return candidates_to_arrays(*cues)


def find_candidate_cues(
    images: ClassImages, class_arrays: dict[str, np.ndarray], reference: Reference,
    max_candidates: int, seed: int,
) -> tuple[int, list[CandidateCue]]:  # fmt: skip
    """Return the number of judged candidates of a class and the distinct ones by p-value."""
    target, class_rows, _ = images
    shape = reference.shape
    is_other = reference.labels != target
    rows = np.concatenate([class_rows, reference.rows[is_other]])
    in_class = np.arange(len(rows)) < len(class_rows)
    values, objectness = (
        np.concatenate([class_arrays[name], reference.arrays[name][is_other]])
        for name in ("values", "objectness")
    )
    on_object = candidates.object_patches(objectness)
    fixed = candidates.fixed_patches(on_object, in_class)
    repeated = candidates.repeated_patches(on_object[in_class]) | candidates.repeated_patches(
        candidates.object_patches(reference.arrays["objectness"])
    )
    off_object = candidates.background_patches(
        on_object, in_class[:, None] & fixed, repeated, shape
    )
    rng = np.random.default_rng((seed, target))
    fold = np.empty(len(rows), int)
    for part in (np.flatnonzero(in_class), np.flatnonzero(~in_class)):
        fold[rng.permutation(part)] = np.arange(len(part)) % candidates.FOLDS
    class_patches = candidates.ClassPatches(values, off_object, in_class, fold)
    judged = candidates.find_candidates(class_patches, reference.projection, seed)
    selected: list[CandidateCue] = []
    for candidate in candidates.select_distinct(judged, in_class, 2 * max_candidates):
        cue_rows = candidate.has_cue & in_class
        if cue_rows.sum() < candidates.FOLDS:
            continue
        if not (candidate.patch_mask & cue_rows[:, None]).any():
            continue
        detector = fit_detector(
            values, candidate.patch_mask, cue_rows, ~candidate.has_cue & ~in_class, seed
        )
        marks = detector.scores(values[in_class]) > 0
        if any(
            candidates.overlap_fraction(marks, previous.marks) > candidates.MAX_OVERLAP
            for previous in selected
        ):
            continue
        new_cue = CandidateCue(target, rows, in_class, fixed, repeated, candidate, detector, marks)
        wholes = [i for i, cue in enumerate(selected) if _is_part(new_cue, cue, shape)]
        if wholes:
            selected[wholes[0]] = _join(selected[wholes[0]], new_cue, values, seed)
        elif len(selected) < max_candidates:
            selected.append(new_cue)
    return len(judged), selected


def _is_part(first: CandidateCue, second: CandidateCue, shape: tuple[int, int]) -> bool:
    """Return whether a candidate is a part of another: same images, neighbouring patches."""
    first_rows = first.candidate.has_cue & first.in_class
    second_rows = second.candidate.has_cue & second.in_class
    shared_fraction = float((first_rows & second_rows).sum()) / max(1, first_rows.sum())
    has_first = first_rows[first.in_class, None]
    near = candidates.nearby_fraction(first.marks & has_first, second.marks & has_first, shape)
    return shared_fraction > MIN_SHARED_IMAGES and near > candidates.MIN_NEARBY


def _join(
    whole_cue: CandidateCue, part: CandidateCue, values: np.ndarray, seed: int
) -> CandidateCue:
    """Return the whole candidate with the patches of a part; its frequencies do not change."""
    candidate = replace(
        whole_cue.candidate, patch_mask=whole_cue.candidate.patch_mask | part.candidate.patch_mask
    )
    has_cue = candidate.has_cue & whole_cue.in_class
    without_cue = ~candidate.has_cue & ~whole_cue.in_class
    detector = fit_detector(values, candidate.patch_mask, has_cue, without_cue, seed)
    marks = detector.scores(values[whole_cue.in_class]) > 0
    return replace(whole_cue, candidate=candidate, detector=detector, marks=marks)


def candidates_to_arrays(
    n_judged: int, candidate_cues: Sequence[CandidateCue]
) -> dict[str, np.ndarray]:
    """Return the candidates of one class, out of `n_judged`, as arrays."""
    arrays = {"n_judged": np.array(n_judged), "count": np.array(len(candidate_cues))}
    for number, candidate_cue in enumerate(candidate_cues):
        arrays |= {
            f"{name}-{number}": value for name, value in _candidate_arrays(candidate_cue).items()
        }
    return arrays


def candidates_from_arrays(
    target: int, arrays: dict[str, np.ndarray]
) -> tuple[int, list[CandidateCue]]:
    """Return the number of judged candidates of a class and its candidates from such arrays."""
    candidate_cues = [
        _candidate_from_arrays(target, {name: arrays[f"{name}-{number}"] for name in ARRAYS})
        for number in range(int(arrays["count"]))
    ]
    return int(arrays["n_judged"]), candidate_cues


def _candidate_arrays(candidate_cue: CandidateCue) -> dict[str, np.ndarray]:
    """Return one candidate as arrays: `ARRAYS`."""
    candidate, detector = candidate_cue.candidate, candidate_cue.detector
    numbers = np.array([candidate.p, detector.offset, detector.slope, detector.start], np.float64)
    values = (
        candidate_cue.rows, candidate_cue.in_class, candidate_cue.fixed,
        candidate_cue.repeated, np.packbits(candidate.patch_mask),
        candidate.has_cue, np.packbits(candidate_cue.marks), detector.weights, numbers,
    )  # fmt: skip
    return dict(zip(ARRAYS, values, strict=True))


def _candidate_from_arrays(target: int, arrays: dict[str, np.ndarray]) -> CandidateCue:
    """Return a candidate from its arrays."""
    rows, in_class, fixed, repeated = (
        arrays[name] for name in ("rows", "in_class", "fixed", "repeated")
    )
    p, *numbers = arrays["numbers"].tolist()
    candidate = Candidate(
        _patches(arrays["patch_mask"], len(rows), len(fixed)), arrays["has_cue"], p
    )
    marks = _patches(arrays["marks"], int(in_class.sum()), len(fixed))
    return CandidateCue(
        target,
        rows,
        in_class,
        fixed,
        repeated,
        candidate,
        CueDetector(arrays["weights"], *numbers),
        marks,
    )


def _patches(bits: np.ndarray, images: int, patches: int) -> np.ndarray:
    """Return unpacked bits as (images, patches)."""
    return np.unpackbits(bits, count=images * patches).astype(bool).reshape(images, patches)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    probabilities: np.ndarray = expit(values)
    return probabilities
