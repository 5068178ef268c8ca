"""Search for the nearest descriptors, and distances to unrelated images, against slow oracles."""

from __future__ import annotations

import numpy as np
import pytest

from semattn.keypoints import descriptor_index
from semattn.keypoints.descriptor_index import EXACT, DescriptorIndex, background_distances
from semattn.keypoints.local_features import LocalFeatures
from tests.keypoints.drawn_marks import random_descriptors


def squared_distances(queries: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Return squared distances (Q, M) in float64."""
    queries, descriptors = queries.astype(float), descriptors.astype(float)
    return np.stack([((descriptors - query) ** 2).sum(axis=1) for query in queries])


def clusters(count: int, dimensions: int = 32) -> np.ndarray:
    """Return descriptors around 60 centres, as those of repeated patterns are."""
    rng = np.random.default_rng(3)
    centers = random_descriptors(rng, 60, dimensions)
    values = centers[rng.integers(60, size=count)] + rng.normal(size=(count, dimensions)) * 0.03
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def features_of(descriptors: np.ndarray, image: list[int] | np.ndarray, n: int) -> LocalFeatures:
    """Return features with descriptors; positions are all 0."""
    zeros = np.zeros(len(descriptors), np.float32)
    return LocalFeatures(np.zeros((len(zeros), 2)), zeros, zeros, descriptors, np.array(image), n)


# --- search


def test_few_descriptors_are_all_compared():
    rng = np.random.default_rng(0)
    descriptors, queries = (random_descriptors(rng, count, 16) for count in (300, 20))
    distances, rows = DescriptorIndex(descriptors).search(queries, 7)
    expected = squared_distances(queries, descriptors)
    np.testing.assert_array_equal(rows, expected.argsort(axis=1)[:, :7])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :7], atol=1e-5)


def test_a_descriptor_is_at_distance_zero_of_itself():
    descriptors = random_descriptors(np.random.default_rng(0), 100, 16)
    distances, rows = DescriptorIndex(descriptors).search(descriptors, 200)
    assert distances.shape == rows.shape == (100, 100)
    assert rows[:, 0].tolist() == list(range(100))
    assert (distances >= 0).all() and distances[:, 0].max() < 1e-5


def test_the_inverted_file_finds_nine_of_ten_nearest_descriptors():
    descriptors = clusters(EXACT + 900)
    queries = descriptors[::50]
    index = DescriptorIndex(descriptors)
    distances, rows = index.search(queries, 10)
    expected = squared_distances(queries, descriptors)
    nearest = expected.argsort(axis=1)[:, :10]
    shared = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), nearest.tolist(), strict=True)]
    assert np.mean(shared) > 9
    np.testing.assert_allclose(distances, np.take_along_axis(expected, rows, 1), atol=1e-5)
    assert (np.diff(distances, axis=1) >= 0).all()
    again = DescriptorIndex(descriptors).search(queries, 10)
    np.testing.assert_array_equal(again[0], distances)
    np.testing.assert_array_equal(again[1], rows)


def test_missing_neighbours_are_infinitely_far():
    descriptors = clusters(EXACT + 1)
    distances, rows = DescriptorIndex(descriptors).search(descriptors[:3], EXACT)
    assert (rows < 0).any() and (rows >= 0).any()
    assert np.isinf(distances[rows < 0]).all() and np.isfinite(distances[rows >= 0]).all()


# --- distances to unrelated images


def slow_background(features: LocalFeatures, quantile: float) -> np.ndarray:
    """Return the distance to the image at a rank, at most that of the k-th descriptor."""
    n, bank_size = features.n_images, min(descriptor_index.BANK_IMAGES, features.n_images)
    bank = sorted({round(i * (n - 1) / max(1, bank_size - 1)) for i in range(bank_size)})
    rank = max(1, int(np.ceil(quantile * len(bank))))
    k = max(descriptor_index.BANK_NEIGHBOURS, 2 * rank)
    in_bank = [row for row in range(len(features)) if features.image[row] in bank]
    distances = squared_distances(features.descriptors, features.descriptors)
    result = []
    for row in range(len(features)):
        nearest = []
        for image in bank:
            of_image = [r for r in in_bank if features.image[r] == image]
            if image != features.image[row] and of_image:
                nearest.append(min(distances[row, r] for r in of_image))
        in_order = sorted(distances[row, in_bank])
        farthest = in_order[min(k, len(in_order)) - 1]
        result.append(min([farthest, *sorted(nearest)[rank - 1 : rank]]))
    return np.array(result)


@pytest.mark.parametrize("quantile", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("bank", [4, 9, 120])
def test_background_is_the_distance_below_which_a_part_of_the_images_lies(
    quantile, bank, monkeypatch
):
    monkeypatch.setattr(descriptor_index, "BANK_IMAGES", bank)
    rng = np.random.default_rng(5)
    image = np.sort(rng.integers(0, 21, 160))
    image = image[(image != 4) & (image != 20)]  # two images without keypoints
    features = features_of(random_descriptors(rng, len(image), 8), image, 21)
    np.testing.assert_allclose(
        background_distances(features, quantile), slow_background(features, quantile), atol=1e-5
    )


@pytest.mark.parametrize("neighbours", [1, 3, 10])
def test_with_too_few_neighbours_the_farthest_is_a_lower_bound(neighbours, monkeypatch):
    rng = np.random.default_rng(6)
    image = np.repeat(np.arange(6), (30, 2, 2, 2, 2, 2))
    features = features_of(random_descriptors(rng, len(image), 8), image, 6)
    every = background_distances(features, 0.5)
    monkeypatch.setattr(descriptor_index, "BANK_NEIGHBOURS", neighbours)
    few = background_distances(features, 0.5)
    np.testing.assert_allclose(few, slow_background(features, 0.5), atol=1e-5)
    assert (few <= every).all() and (few < every).any()


def test_images_that_share_a_mark_do_not_lower_the_background_up_to_the_quantile():
    rng = np.random.default_rng(7)
    unrelated = random_descriptors(rng, 10 * 4, 8).reshape(10, 4, 8)
    shared = random_descriptors(rng, 1, 8)[0]

    def background(n_marked: int) -> float:
        descriptors = unrelated.copy()
        descriptors[:n_marked, 0] = shared
        features = features_of(descriptors.reshape(-1, 8), np.repeat(np.arange(10), 4), 10)
        return float(background_distances(features, 0.5)[0])

    assert min(background(count) for count in (1, 3, 5)) > 0.01
    assert background(6) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n_images", [0, 1, 3])
def test_images_without_keypoints_have_no_background(n_images):
    features = features_of(np.zeros((0, 128), np.float32), np.zeros(0, int), n_images)
    assert background_distances(features, 0.5).shape == (0,)


def test_a_bank_without_keypoints_has_background_zero(monkeypatch):
    monkeypatch.setattr(descriptor_index, "BANK_IMAGES", 2)  # the first and the last image
    rng = np.random.default_rng(8)
    features = features_of(random_descriptors(rng, 6, 8), [1, 1, 2, 2, 3, 3], 5)
    assert background_distances(features, 0.5).tolist() == [0] * 6
