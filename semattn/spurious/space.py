"""The space that patches are compared in: a few principal components of each kind of feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .features import blocks_of

KEYS = 48  # components of each layer's keys
SIFT = 16  # of the descriptors
SHRINK = 0.05  # of the covariance, toward a multiple of the identity


@dataclass(frozen=True, eq=False)
class Space:
    """x -> (x - mean) @ axes, from E features to D coordinates, each kind with the same weight.

    Parameters
    ----------
    mean : (E,)
    axes : (E, D)
    things : which of the D coordinates the keys half way up gave; all others are looks
    """

    mean: np.ndarray
    axes: np.ndarray
    things: slice

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(…, E) to (…, D)."""
        made: np.ndarray = ((features - self.mean) @ self.axes).astype(np.float32)
        return made


def fit_space(features: np.ndarray, seed: int) -> Space:
    """The space of a sample of patches (n, E)."""
    from sklearn.decomposition import PCA

    mean = features.mean(axis=0)
    found: list[np.ndarray] = []
    for number, part in enumerate(blocks_of(features.shape[1])):
        own = features[:, part] - mean[part]
        axes = np.zeros((features.shape[1], min(own.shape[1], KEYS if number < 2 else SIFT)))
        if number == 2:  # colours: as they are, each as wide as the others
            axes[part] = np.diag(1 / own.std(axis=0).clip(min=1e-6))
        else:
            count = min(axes.shape[1], len(own))
            axes = axes[:, :count]
            if own.any():  # else nothing tells patches apart
                made = PCA(count, random_state=seed).fit(own)
                width = np.sqrt(made.explained_variance_.mean())
                axes[part] = made.components_.T / max(width, 1e-6)
        found.append(axes)
    start = found[0].shape[1]
    things = slice(start, start + found[1].shape[1])
    return Space(mean.astype(np.float32), np.concatenate(found, axis=1).astype(np.float32), things)


@dataclass(frozen=True, eq=False)
class White:
    """Coordinates of patches with the covariance of a background taken out."""

    mean: np.ndarray
    axes: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(…, D) to (…, D)."""
        made: np.ndarray = ((values - self.mean) @ self.axes).astype(np.float32)
        return made


def whiten(values: np.ndarray) -> White:
    """The whitening of a sample (n, D)."""
    from sklearn.covariance import shrunk_covariance

    mean = values.mean(axis=0)
    spread = shrunk_covariance(np.cov((values - mean).T), SHRINK)
    sizes, axes = np.linalg.eigh(spread)
    return White(mean, (axes / np.sqrt(sizes.clip(min=1e-9))).astype(np.float32))
