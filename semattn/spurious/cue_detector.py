"""Detector of a cue: logistic regressions on patches and on the number of matching patches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .projection import Space

STRENGTH = 0.1  # inverse regularisation strength C
MOST = 8000  # training patches with the cue, and without it, at most


@dataclass(frozen=True, eq=False)
class Detector:
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

    def shown(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that each image shows the cue: (B, P, E) to (B,)."""
        count = (self.scores(features) > 0).sum(axis=-1)
        return _sigmoid(self.slope * np.log1p(count) + self.start)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the probability that each patch shows the cue: (B, P, E) to (B, P)."""
        return _sigmoid(self.scores(features)) * self.shown(features)[:, None]

    def before(self, space: Space) -> Detector:
        """Return the same detector for features (…, E), given one for coordinates in `space`."""
        weights = space.axes @ self.weights
        offset = float(self.offset - space.mean @ weights)
        return Detector(weights, offset, self.slope, self.start)


def fit_detector(
    values: np.ndarray,
    patch_mask: np.ndarray,
    has_cue: np.ndarray,
    without_cue: np.ndarray,
    seed: int,
) -> Detector:
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
        return patches if len(patches) <= MOST else patches[rng.permutation(len(patches))[:MOST]]

    # Patches without the cue are subsampled before they are gathered, to bound the memory.
    rows = np.flatnonzero(without_cue)
    draws = rng.choice(len(rows) * values.shape[1], min(MOST, len(rows) * values.shape[1]), False)
    inside = subsample(values[has_cue][patch_mask[has_cue]])
    outside = values[rows[draws // values.shape[1]], draws % values.shape[1]]
    is_cue = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    patch = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300).fit(
        np.concatenate([inside, outside]), is_cue
    )
    weights = patch.coef_[0].astype(np.float32)
    offset = float(patch.intercept_[0])
    count = np.log1p((values @ weights + offset > 0).sum(axis=-1))
    image = LogisticRegression(class_weight="balanced").fit(count[:, None], has_cue)
    return Detector(weights, offset, float(image.coef_[0, 0]), float(image.intercept_[0]))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    probabilities: np.ndarray = expit(values)
    return probabilities
