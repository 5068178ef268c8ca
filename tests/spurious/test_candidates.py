"""Locations and candidates against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from semattn.spurious import candidates as candidates_of
from semattn.spurious.candidates import (
    ClassPatches,
    _best_threshold,
    find_candidates,
    overlap_fraction,
)
from semattn.spurious.cue_detector import fit_detector
from semattn.spurious.projection import FeatureProjection


def test_off_object_leaves_out_the_object_and_its_neighbours():
    objectness = np.zeros((1, 25))
    objectness[0, 12] = 1  # the middle of 5 x 5
    on_object = candidates_of.object_patches(objectness)
    assert on_object.sum() == 1
    assert candidates_of.object_patches(np.array([[0.0, 0.2, 0.5, 0.9]])).tolist() == [
        [False] * 2 + [True] * 2
    ]
    none = np.zeros(25, bool)
    off_object = candidates_of.background_patches(on_object, none, none, (5, 5)).reshape(5, 5)
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    assert np.array_equal(off_object, expected)


def test_nothing_but_the_mark_is_off_the_object_if_a_repeated_region_draws_the_salience():
    none, mark = np.zeros(25, bool), np.arange(25) == 4
    on_object = np.zeros((2, 25), bool)
    on_object[:, 4] = True  # a mark in a corner
    on_object[1, 20:22] = True  # an object in the opposite corner
    off_object = candidates_of.background_patches(on_object, mark, mark, (5, 5)).reshape(2, 5, 5)
    assert np.argwhere(off_object[0]).tolist() == [[0, 4]]
    expected = np.ones((5, 5), bool)
    expected[3:, :3] = False  # the object and its neighbours
    assert np.array_equal(off_object[1], expected)
    assert candidates_of.background_patches(on_object, mark, none, (5, 5))[0].all()  # not repeated
    off_object = candidates_of.background_patches(on_object, none, mark, (5, 5)).reshape(2, 5, 5)
    assert not off_object[0].any()
    expected[:2, 3:] = False  # a mark of all classes may be an object
    assert np.array_equal(off_object[1], expected)


def test_a_compact_region_has_the_perimeter_of_a_square():
    square, scattered = np.zeros((2, 8, 8), bool)
    square[2:5, 2:5] = True
    scattered[::2, ::2] = True  # 16 patches with 64 sides, 8 of them on the border
    patches = np.stack([square, scattered, np.zeros((8, 8), bool)]).reshape(3, 64)
    assert candidates_of.perimeter_ratio(patches, (8, 8)).tolist() == [1.0, 3.5, 0.0]
    assert candidates_of.is_compact(patches, (8, 8)).tolist() == [True, False, True]


def test_salient_regions_that_many_images_share_are_marks():
    rng = np.random.default_rng(0)
    objects = np.zeros((40, 8, 8), bool)
    for image, (row, column) in zip(objects, rng.integers(0, 5, (40, 2)), strict=True):
        image[row : row + 3, column : column + 3] = True
    assert not candidates_of.repeated_patches(objects.reshape(40, 64)).any()
    frame = np.ones((8, 8), bool)
    frame[1:-1, 1:-1] = False
    framed = objects.copy()
    framed[::2] = frame  # draws the salience of half of the images
    assert np.array_equal(candidates_of.repeated_patches(framed.reshape(40, 64)), frame.ravel())
    shared = np.zeros((20, 64), bool)
    shared[:, :12] = True
    shared[np.arange(20), 20 + np.arange(20)] = True  # overlap 12 of 14
    assert candidates_of.repeated_patches(shared).nonzero()[0].tolist() == list(range(12))
    shared[:, 11] = False  # 11 of 13, below the required overlap
    assert not candidates_of.repeated_patches(shared).any()
    few = np.eye(6, 64, dtype=bool)  # six images, each with a region of its own
    assert not candidates_of.repeated_patches(few).any()
    few[:4] = few[0]
    assert candidates_of.repeated_patches(few).nonzero()[0].tolist() == [0]
    framed[2:] = objects[2:]  # one image of 40
    assert not candidates_of.repeated_patches(framed.reshape(40, 64)).any()


def test_fixed_places_are_salient_in_the_class_only():
    on_object = np.zeros((10, 4), bool)
    on_object[:5, 3] = True  # in the class alone
    on_object[:, 0] = True  # everywhere
    on_object[:1, 1] = True  # an object that happens to be there
    in_class = np.arange(10) < 5
    assert candidates_of.fixed_patches(on_object, in_class).tolist() == [False, False, False, True]
    assert candidates_of.mean_overlap(on_object[1:5]) == 1
    corner = np.eye(16, dtype=bool)[:1]
    near, apart = np.roll(corner, 10, axis=1), np.roll(corner, 3, axis=1)  # of 4 x 4
    assert candidates_of.nearby_fraction(near | apart, corner, (4, 4)) == 0.5
    assert candidates_of.nearby_fraction(corner, np.zeros((1, 16), bool), (4, 4)) == 0
    half = candidates_of.mean_overlap(np.array([[True, True, False], [False, True, True]]))
    assert half == pytest.approx(1 / 3)
    assert candidates_of.mean_overlap(np.eye(3, dtype=bool)) == 0
    assert np.isnan(candidates_of.mean_overlap(np.zeros((3, 4), bool)))


def planted(shift: float, seed: int = 0):
    """Return 60 images of 16 patches; the fourth patch of the class is offset by `shift`."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(60, 16, 6)).astype(np.float32)
    in_class = np.arange(60) < 20
    values[in_class, 3, 0] += shift
    off_object = np.ones((60, 16), bool)
    return ClassPatches(values, off_object, in_class, np.arange(60) % 3), FeatureProjection(
        np.zeros(6), np.eye(6), slice(0, 3)
    )


def test_candidates_are_more_frequent_in_the_class():
    patches, projection = planted(9.0)
    best = find_candidates(patches, projection, 0)[0]
    assert best.p < 1e-10 and best.has_cue[patches.in_class].mean() > 0.9
    assert best.has_cue[~patches.in_class].mean() < 0.1
    assert best.patch_mask[patches.in_class][:, 3].mean() > 0.9
    detector = fit_detector(patches.values, best.patch_mask, best.has_cue & patches.in_class,
                            ~best.has_cue & ~patches.in_class, 0)  # fmt: skip
    matches = detector(patches.values)
    assert matches[patches.in_class][:, 3].min() > matches[~patches.in_class].max()


def test_patches_on_the_object_are_not_counted():
    patches, projection = planted(9.0)
    patches.off_object[:, 3] = False
    assert min(candidate.p for candidate in find_candidates(patches, projection, 0)) > 1e-3


def test_without_a_cue_candidates_are_as_frequent_as_chance():
    judged, small = 0, 0
    for seed in range(12):
        candidates = find_candidates(*planted(0.0, seed), 0)
        judged += len(candidates)
        small += sum(candidate.p * len(candidates) < 0.05 for candidate in candidates)
    assert judged > 20 and small <= 2  # of 12 searches at .05


def test_threshold_separates_the_class_and_overlap_is_of_the_smaller_set():
    assert _best_threshold(np.array([5, 6, 7]), np.array([0, 1, 4])) == 5
    assert overlap_fraction(np.array([1, 1, 0]) > 0, np.array([0, 1, 0]) > 0) == 1


def test_the_rank_of_a_place_is_that_of_its_surroundings_among_all_places():
    rng = np.random.default_rng(0)
    salient = rng.random((3, 30)) < 0.4
    regions = np.zeros((3, 5, 6), bool)
    regions[0, 1:3, 2:5] = True
    regions[1, 4, 0] = True
    regions[2, [0, 2], [5, 4]] = True  # two patches that do not touch
    found = candidates_of.rank_of_place(salient, regions.reshape(3, -1), (5, 6))
    for number, region in enumerate(regions):
        rows, columns = np.nonzero(region)
        parts = {}
        for down in range(-rows.min(), 5 - rows.max()):
            for right in range(-columns.min(), 6 - columns.max()):
                moved = set(zip((rows + down).tolist(), (columns + right).tolist(), strict=True))
                around = [
                    (row, column) for row in range(5) for column in range(6)
                    if (row, column) not in moved
                    and any(max(abs(row - r), abs(column - c)) <= 2 for r, c in moved)
                ]  # fmt: skip
                parts[down, right] = np.mean([salient[number].reshape(5, 6)[at] for at in around])
        values = np.array(list(parts.values()))
        expected = (values < parts[0, 0]).mean() + (values == parts[0, 0]).mean() / 2
        assert found[number] == pytest.approx(expected)


def test_the_mean_rank_of_all_places_of_a_region_is_one_half():
    salient = np.random.default_rng(1).random((1, 48)) < 0.3
    ranks = []
    for place in range(48):
        region = (np.arange(48) == place)[None]
        ranks.append(candidates_of.rank_of_place(salient, region, (6, 8))[0])
    assert np.mean(ranks) == pytest.approx(0.5)
