"""What finds a cue in the patches of any image: one logistic regression, and one on its count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .space import Space

STRENGTH = 0.1  # the inverse of the regularisation
MOST = 8000  # patches that are learned from, of either kind


@dataclass(frozen=True, eq=False)
class Detector:
    """How surely each patch shows the cue: how much it looks like it, times how sure the image is.

    Parameters
    ----------
    weights, offset : of a patch's features (E,); above 0 is likelier than not
    slope, start : of log(1 + how many patches of the image are above 0)
    """

    weights: np.ndarray
    offset: float
    slope: float
    start: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Log-odds of each patch by itself: (B, P, E) to (B, P)."""
        made: np.ndarray = features @ self.weights + self.offset
        return made

    def shown(self, features: np.ndarray) -> np.ndarray:
        """How surely each image shows it: (B, P, E) to (B,) in [0, 1]."""
        count = (self.scores(features) > 0).sum(axis=-1)
        return _sigmoid(self.slope * np.log1p(count) + self.start)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(B, P, E) to (B, P) in [0, 1]."""
        return _sigmoid(self.scores(features)) * self.shown(features)[:, None]

    def before(self, space: Space) -> Detector:
        """The same detector for features (…, E), where this one is for coordinates in `space`."""
        weights = space.axes @ self.weights
        offset = float(self.offset - space.mean @ weights)
        return Detector(weights, offset, self.slope, self.start)


def fit_detector(
    values: np.ndarray, like: np.ndarray, bears: np.ndarray, never: np.ndarray, seed: int
) -> Detector:
    """The detector of patches in a space.

    Parameters
    ----------
    values : (n, P, D)
    like : (n, P), patches that a candidate has found
    bears : (n,), images that show it
    never : (n,), images that do not, and are of other classes
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)

    def some(patches: np.ndarray) -> np.ndarray:
        return patches if len(patches) <= MOST else patches[rng.permutation(len(patches))[:MOST]]

    # Patches of images without it are drawn before they are gathered: there are many.
    rows = np.flatnonzero(never)
    drawn = rng.choice(len(rows) * values.shape[1], min(MOST, len(rows) * values.shape[1]), False)
    inside = some(values[bears][like[bears]])
    outside = values[rows[drawn // values.shape[1]], drawn % values.shape[1]]
    known = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    patch = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=300).fit(
        np.concatenate([inside, outside]), known
    )
    weights = patch.coef_[0].astype(np.float32)
    offset = float(patch.intercept_[0])
    count = np.log1p((values @ weights + offset > 0).sum(axis=-1))
    image = LogisticRegression(class_weight="balanced").fit(count[:, None], bears)
    return Detector(weights, offset, float(image.coef_[0, 0]), float(image.intercept_[0]))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    made: np.ndarray = expit(values)
    return made
