"""Nearest descriptors among many images, by an inverted file of faiss.

faiss (arXiv 2401.08281) is used in place of OpenCV's FLANN: its results do not depend on a random
forest, it searches all queries in one call on all cores, and one list of nearest neighbours serves
every pair of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..utils.processes import Progress, ignore_progress
from .local_features import LocalFeatures

EXACT = 4096  # descriptors up to which all are compared
PROBES = 8  # lists of the inverted file that a query compares
MAX_LISTS = 1024
TRAINED_PER_LIST = 39  # least number of descriptors for each list that faiss trains without warning
BANK_IMAGES = 120
PART = 65_536  # queries of one search
BANK_NEIGHBOURS = 48


class DescriptorIndex:
    """Index of descriptors (M, D) for approximate search by Euclidean distance."""

    def __init__(self, descriptors: np.ndarray) -> None:
        faiss = _import_faiss()
        data = np.ascontiguousarray(descriptors, np.float32)
        lists = min(MAX_LISTS, len(data) // TRAINED_PER_LIST, round(2 * len(data) ** 0.5))
        if len(data) <= EXACT:
            self._index = faiss.IndexFlatL2(data.shape[1])
        else:
            self._index = faiss.index_factory(data.shape[1], f"IVF{lists},Flat")
            self._index.nprobe = PROBES
            step = max(1, len(data) // (TRAINED_PER_LIST * lists))
            self._index.train(data[::step])
        self._index.add(data)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return squared distances and rows of the k nearest descriptors, the nearest first.

        Both are (Q, k); rows that are missing are -1, at an infinite distance.
        """
        k = min(k, self._index.ntotal)
        distances, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return np.where(rows < 0, np.inf, distances).clip(min=0), rows


def _import_faiss() -> Any:
    with warnings.catch_warnings():  # SWIG's types have no __module__
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    return faiss


def background_distances(
    features: LocalFeatures, quantile: float, progress: Progress = ignore_progress
) -> np.ndarray:
    """Return the squared distance of each descriptor to images that do not share its mark: (M,).

    The distance to the nearest descriptor of each image of a bank is computed; the result is the
    distance below which `quantile` of these images lie. A mark in fewer images than that does not
    lower it. The bank holds `BANK_IMAGES` evenly spaced images. `progress` counts descriptors.
    """
    count = min(BANK_IMAGES, features.n_images)
    bank = np.unique(np.linspace(0, features.n_images - 1, count).round().astype(int))
    rows = np.flatnonzero(np.isin(features.image, bank))
    if not len(rows):
        return np.zeros(len(features), np.float32)
    rank = max(1, int(np.ceil(quantile * len(bank))))
    index, k = DescriptorIndex(features.descriptors[rows]), max(BANK_NEIGHBOURS, 2 * rank)
    result = np.empty(len(features), np.float32)
    for part in parts(len(features)):
        distances, neighbours = index.search(features.descriptors[part], k)
        images = np.where(neighbours >= 0, features.image[rows[neighbours]], -1)
        images[images == features.image[part, None]] = -1
        nth = np.cumsum(_first_of_image(images), axis=1)
        distances = np.where(np.isfinite(distances), distances, -np.inf)
        # Without enough images among the neighbours, the farthest neighbour is a lower bound.
        position = np.where(nth[:, -1] >= rank, (nth < rank).sum(axis=1), distances.argmax(axis=1))
        result[part] = distances[np.arange(len(distances)), position].clip(min=0)
        progress("comparing keypoints", part.stop, len(features))
    return result


def parts(count: int, size: int = PART) -> Iterator[slice]:
    """Yield slices of at most `size` rows, which bound the memory of a search."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _first_of_image(images: np.ndarray) -> np.ndarray:
    """Return where a row of (Q, k) has an image for the first time; -1 is no image."""
    order = np.argsort(images, axis=1, kind="stable")
    in_order = np.take_along_axis(images, order, axis=1)
    is_first = np.ones(images.shape, bool)
    is_first[:, 1:] = in_order[:, 1:] != in_order[:, :-1]
    result = np.empty_like(is_first)
    np.put_along_axis(result, order, is_first, axis=1)
    result &= images >= 0
    return result
