"""Linear projection of patch features to a few components of each kind, and their whitening."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .feature_extractor import feature_blocks

KEYS = 48  # components of each layer's keys
SIFT = 16  # components of the descriptors
SHRINK = 0.05  # shrinkage of the covariance toward a multiple of the identity


@dataclass(frozen=True, eq=False)
class FeatureProjection:
    """Projection x -> (x - mean) @ axes from E features to D coordinates, equal weight per kind.

    Parameters
    ----------
    mean : (E,)
    axes : (E, D)
    object_axes : coordinates from the keys of the middle layer; the others describe appearance
    """

    mean: np.ndarray
    axes: np.ndarray
    object_axes: slice

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the coordinates of features: (…, E) to (…, D)."""
        coordinates: np.ndarray = ((features - self.mean) @ self.axes).astype(np.float32)
        return coordinates


def fit_projection(features: np.ndarray, seed: int) -> FeatureProjection:
    """Fit the projection to a sample of patches (n, E)."""
    from sklearn.decomposition import PCA

    mean = features.mean(axis=0)
    axes_of_blocks: list[np.ndarray] = []
    for number, block in enumerate(feature_blocks(features.shape[1])):
        centred = features[:, block] - mean[block]
        axes = np.zeros((features.shape[1], min(centred.shape[1], KEYS if number < 2 else SIFT)))
        if number == 2:  # colours: as they are, each as wide as the others
            axes[block] = np.diag(1 / centred.std(axis=0).clip(min=1e-6))
        else:
            count = min(axes.shape[1], len(centred))
            axes = axes[:, :count]
            if centred.any():  # else nothing tells patches apart
                pca = PCA(count, random_state=seed).fit(centred)
                scale = np.sqrt(pca.explained_variance_.mean())
                axes[block] = pca.components_.T / max(scale, 1e-6)
        axes_of_blocks.append(axes)
    start = axes_of_blocks[0].shape[1]
    object_axes = slice(start, start + axes_of_blocks[1].shape[1])
    return FeatureProjection(
        mean.astype(np.float32),
        np.concatenate(axes_of_blocks, axis=1).astype(np.float32),
        object_axes,
    )


@dataclass(frozen=True, eq=False)
class Whitening:
    """Whitening by the covariance of background patches."""

    mean: np.ndarray
    axes: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return whitened coordinates: (…, D) to (…, D)."""
        whitened: np.ndarray = ((values - self.mean) @ self.axes).astype(np.float32)
        return whitened


def fit_whitening(values: np.ndarray) -> Whitening:
    """Fit the whitening to a sample (n, D)."""
    from sklearn.covariance import shrunk_covariance

    mean = values.mean(axis=0)
    covariance = shrunk_covariance(np.cov((values - mean).T), SHRINK)
    eigenvalues, axes = np.linalg.eigh(covariance)
    return Whitening(mean, (axes / np.sqrt(eigenvalues.clip(min=1e-9))).astype(np.float32))
