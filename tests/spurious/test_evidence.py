"""Significance, frequencies, locations and candidates against values computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints
from semattn.spurious import candidates as candidates_of
from semattn.spurious.candidates import (
    ClassPatches,
    _best_threshold,
    find_candidates,
    overlap_fraction,
)
from semattn.spurious.cue import intervention_patches
from semattn.spurious.cue_detector import CueDetector, fit_detector
from semattn.spurious.feature_extractor import (
    colour_features,
    descriptor_features,
    feature_blocks,
)
from semattn.spurious.interventions import _best_covering, widen
from semattn.spurious.projection import FeatureProjection, fit_projection, fit_whitening
from semattn.spurious.significance import (
    alpha_weights,
    corrected_p,
    effect,
    fisher_p,
    relative_risk_bound,
    score,
)


def test_sign_flip_of_three_equal_values_has_p_of_one_eighth():
    assert effect(np.array([1.0, 1.0, 1.0])).p == pytest.approx(1 / 8, abs=0.01)
    assert effect(-np.ones(5)).p == 1
    assert effect(np.array([2.0, np.nan])).count == 1
    no_effect = effect(np.full(3, np.nan))
    assert no_effect.p == 1 and no_effect.count == 0 and np.isnan(no_effect.mean)


def test_null_effects_are_significant_at_the_level():
    rng = np.random.default_rng(0)
    p = np.array([effect(rng.normal(size=16), seed).p for seed in range(200)])
    assert 0.01 < (p < 0.05).mean() < 0.1  # the 99.9 % binomial band of 200 draws


def test_contrast_p_is_fishers_exact_test():
    rng = np.random.default_rng(1)
    inside, outside = rng.random(9) < 0.7, rng.random(14) < 0.3
    table = [[inside.sum(), (~inside).sum()], [outside.sum(), (~outside).sum()]]
    assert fisher_p(inside, outside) == pytest.approx(fisher_exact(table, "greater")[1])


def test_score_is_contrast_times_removal_effect():
    inside, outside = np.array([True, True, True, False]), np.array([True, False, False, False])
    value, (low, high) = score(inside, outside, np.array([1.0, 3.0]))
    assert value == pytest.approx(0.5 * 2) and low <= value <= high
    assert score(outside, inside, np.array([1.0]))[0] == 0
    assert score(inside, outside, np.array([]))[0] == 0
    assert alpha_weights([1e-4, 1e-4]) == pytest.approx([0.5, 0.5])
    assert alpha_weights([1e-8, 1e-4]) == pytest.approx([0.8, 0.2])


def test_p_of_a_cue_is_its_greatest_corrected_p():
    assert corrected_p(1e-3, 20, 1e-4, 1e-4, 1.0) == pytest.approx(0.02)
    assert corrected_p(1e-9, 20, 1e-2, 1e-4, 0.5) == pytest.approx(0.04)
    assert corrected_p(1e-9, 20, 1e-4, 1e-2, 0.5) == pytest.approx(0.02)
    assert corrected_p(0.5, 20, 1e-4, 1e-2, 0.5) == 1


def test_lift_is_the_lower_limit_of_the_relative_risk():
    inside, outside = np.arange(30) < 15, np.arange(360) < 52
    log_sd = np.sqrt(1 / 15 - 1 / 30 + 1 / 52 - 1 / 360)  # of the logarithm (Katz et al. 1978)
    ratio = (15 / 30) / (52 / 360)
    assert relative_risk_bound(inside, outside) == pytest.approx(
        ratio * np.exp(-1.96 * log_sd), rel=1e-4
    )
    assert relative_risk_bound(inside, np.zeros(360, bool)) > 3  # as if one did
    assert relative_risk_bound(np.zeros(30, bool), outside) == 0


def test_off_object_leaves_out_the_object_and_its_neighbours():
    objectness = np.zeros((1, 25))
    objectness[0, 12] = 1  # the middle of 5 x 5
    on_object = candidates_of.object_patches(objectness)
    assert on_object.sum() == 1
    assert candidates_of.object_patches(np.array([[0.0, 0.2, 0.5, 0.9]])).tolist() == [
        [False] * 2 + [True] * 2
    ]
    off_object = candidates_of.background_patches(on_object, np.zeros(25, bool), (5, 5)).reshape(
        5, 5
    )
    expected = np.ones((5, 5), bool)
    expected[1:4, 1:4] = False
    assert np.array_equal(off_object, expected)
    fixed = np.zeros(25, bool)
    fixed[12] = True
    assert candidates_of.background_patches(on_object, fixed, (5, 5)).all()


def test_patches_of_confirmed_cues_are_left_out_of_interventions():
    values, objectness = np.full((2, 9, 1), -1.0), np.zeros((2, 9))
    objectness[:, 0] = 1  # the object, in a corner
    values[0, 8] = 1  # patches of a cue that is confirmed
    index = SimpleNamespace(labels=np.array([1, 0]), grid=PatchGrid((3, 3), (9, 9), (3, 3)))
    store = SimpleNamespace(
        gather=lambda rows: {"values": values[rows], "objectness": objectness[rows]}, index=index
    )
    confirmed = CueDetector(np.ones(1), 0.0, 1.0, 0.0)
    candidate_cue = SimpleNamespace(target=1, fixed=np.zeros(9, bool), detector=confirmed)
    rows = np.arange(2)
    before = intervention_patches(store, rows, candidate_cue, []).off_object
    after = intervention_patches(store, rows, candidate_cue, [confirmed]).off_object
    assert np.argwhere(before & ~after).tolist() == [[0, 8]] and not (after & ~before).any()


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


def test_colours_and_descriptors_of_patches():
    grid = PatchGrid((1, 2), (8, 16), (8, 8))
    pixels = np.zeros((1, 8, 16, 3), np.uint8)
    pixels[0, :, 8:, 0] = 200
    features = colour_features(pixels, grid)[0]
    assert features[0, 0] == 0 and features[1, 0] == pytest.approx(np.log(216 / 16), rel=1e-4)
    keypoints = Keypoints(
        xy=torch.tensor([[9.0, 4.0], [12.0, 4.0]]), response=torch.ones(2), size=torch.ones(2),
        angle=torch.zeros(2), descriptor=torch.eye(128)[:2] * 9, image_size=(8, 16), detector="a",
    )  # fmt: skip
    patches = descriptor_features([keypoints], grid)[0]
    assert not patches[0].any()
    assert patches[1, :2].tolist() == [0.5, 0.5]
    assert patches[1, 128] == pytest.approx(np.log(3))


def test_projection_weighs_every_kind_equally_and_a_detector_can_precede_it():
    rng = np.random.default_rng(0)
    width = 2 * 6 + 4 + 129
    sample = rng.normal(size=(400, width)) * np.r_[np.full(6, 9.0), np.full(width - 6, 0.1)]
    projection = fit_projection(sample, 0)
    coordinates = projection(sample)
    blocks = [coordinates[:, :6], coordinates[:, projection.object_axes]]
    assert [float(block.var(axis=0).mean()) for block in blocks] == pytest.approx([1, 1], rel=1e-2)
    assert feature_blocks(width)[1] == slice(6, 12)
    detector = CueDetector(rng.normal(size=coordinates.shape[1]).astype(np.float32), 0.3, 1.0, -0.5)
    images = coordinates[:12].reshape(3, 4, -1)
    count = (detector.scores(images) > 0).sum(axis=1)
    shown = 1 / (1 + np.exp(-(1.0 * np.log(1 + count) - 0.5)))
    patch_probability = 1 / (1 + np.exp(-detector.scores(images)))
    np.testing.assert_allclose(detector(images), patch_probability * shown[:, None], rtol=1e-5)
    before = detector.for_features(projection)
    np.testing.assert_allclose(before.scores(sample), detector.scores(coordinates), atol=1e-3)
    white = fit_whitening(coordinates)(coordinates)
    assert np.abs(np.cov(white.T) - np.eye(white.shape[1])).max() < 0.4


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


def test_partners_cover_regions_and_marks_are_widened_by_a_patch():
    regions = np.array([[True, True, False, False]])
    free = np.array([[False, True, True, True], [True, True, False, False]])
    assert _best_covering(np.random.default_rng(0), regions, free).tolist() == [1]
    without_itself = _best_covering(np.random.default_rng(0), free, free, itself=False)
    assert without_itself.tolist() == [1, 0]
    neighbourhood = widen(np.eye(9, dtype=bool)[4:5], PatchGrid((3, 3), (9, 9), (3, 3)))
    assert neighbourhood.all()
    assert widen(np.eye(9, dtype=bool)[:1], PatchGrid((3, 3), (9, 9), (3, 3))).sum() == 4
