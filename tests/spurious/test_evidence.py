"""Effects, frequencies and places against values worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints
from semattn.spurious import places
from semattn.spurious.candidates import Patches, _needed, find, shared
from semattn.spurious.detector import Detector, fit_detector
from semattn.spurious.evidence import contrast_p, effect, lift, score, shares, surely
from semattn.spurious.features import blocks_of, colours, descriptors
from semattn.spurious.space import Space, fit_space, whiten
from semattn.spurious.study import Study
from semattn.spurious.trials import _fitting, widened


def test_a_sign_flip_of_three_alike_is_an_eighth():
    assert effect(np.array([1.0, 1.0, 1.0])).p == pytest.approx(1 / 8, abs=0.01)
    assert effect(-np.ones(5)).p == 1
    assert effect(np.array([2.0, np.nan])).count == 1
    nothing = effect(np.full(3, np.nan))
    assert nothing.p == 1 and nothing.count == 0 and np.isnan(nothing.mean)


def test_a_null_effect_is_found_at_its_level():
    rng = np.random.default_rng(0)
    p = np.array([effect(rng.normal(size=16), seed).p for seed in range(200)])
    assert 0.01 < (p < 0.05).mean() < 0.1  # the 99.9 % binomial band of 200 draws


def test_frequencies_are_fishers():
    rng = np.random.default_rng(1)
    inside, outside = rng.random(9) < 0.7, rng.random(14) < 0.3
    table = [[inside.sum(), (~inside).sum()], [outside.sum(), (~outside).sum()]]
    assert contrast_p(inside, outside) == pytest.approx(fisher_exact(table, "greater")[1])


def test_the_score_is_contrast_times_removal():
    inside, outside = np.array([True, True, True, False]), np.array([True, False, False, False])
    value, (low, high) = score(inside, outside, np.array([1.0, 3.0]))
    assert value == pytest.approx(0.5 * 2) and low <= value <= high
    assert score(outside, inside, np.array([1.0]))[0] == 0
    assert score(inside, outside, np.array([]))[0] == 0
    assert shares([1e-4, 1e-4]) == pytest.approx([0.5, 0.5])
    assert shares([1e-8, 1e-4]) == pytest.approx([0.8, 0.2])


def test_a_cue_is_as_sure_as_its_weakest_evidence():
    assert surely(1e-3, 20, 1e-4, 1e-4, 1.0) == pytest.approx(0.02)
    assert surely(1e-9, 20, 1e-2, 1e-4, 0.5) == pytest.approx(0.04)
    assert surely(1e-9, 20, 1e-4, 1e-2, 0.5) == pytest.approx(0.02)
    assert surely(0.5, 20, 1e-4, 1e-2, 0.5) == 1


def test_how_many_times_as_often_is_said_with_confidence():
    inside, outside = np.arange(30) < 15, np.arange(360) < 52
    spread = np.sqrt(1 / 15 - 1 / 30 + 1 / 52 - 1 / 360)  # of the logarithm (Katz et al. 1978)
    ratio = (15 / 30) / (52 / 360)
    assert lift(inside, outside) == pytest.approx(ratio * np.exp(-1.96 * spread), rel=1e-4)
    assert lift(inside, np.zeros(360, bool)) > 3  # as if one did
    assert lift(np.zeros(30, bool), outside) == 0


def test_what_is_on_the_object_and_beside_it():
    thing = np.zeros((1, 25))
    thing[0, 12] = 1  # the middle of 5 x 5
    over = places.on_object(thing)
    assert over.sum() == 1
    assert places.on_object(np.array([[0.0, 0.2, 0.5, 0.9]])).tolist() == [[False] * 2 + [True] * 2]
    off = places.off_object(over, np.zeros(25, bool), (5, 5)).reshape(5, 5)
    wanted = np.ones((5, 5), bool)
    wanted[1:4, 1:4] = False
    assert np.array_equal(off, wanted)
    fixed = np.zeros(25, bool)
    fixed[12] = True
    assert places.off_object(over, fixed, (5, 5)).all()


def test_confirmed_cues_stay_out_of_later_trials():
    values, thing = np.full((2, 9, 1), -1.0), np.zeros((2, 9))
    thing[:, 0] = 1  # the object, in a corner
    values[0, 8] = 1  # patches of a cue that is confirmed
    looked = SimpleNamespace(
        gather=lambda rows: {"values": values[rows], "thing": thing[rows]},
        labels=np.array([1, 0]), grid=PatchGrid((3, 3), (9, 9), (3, 3)),
    )  # fmt: skip
    known = Detector(np.ones(1), 0.0, 1.0, 0.0)
    tried = SimpleNamespace(target=1, fixed=np.zeros(9, bool), detector=known)
    rows = np.arange(2)
    before = Study._patches(SimpleNamespace(looked=looked), rows, tried, []).off
    after = Study._patches(SimpleNamespace(looked=looked), rows, tried, [known]).off
    assert np.argwhere(before & ~after).tolist() == [[0, 8]] and not (after & ~before).any()


def test_a_mark_stands_out_at_a_fixed_place():
    over = np.zeros((10, 4), bool)
    over[:5, 3] = True  # in the class alone
    over[:, 0] = True  # everywhere
    over[:1, 1] = True  # an object that happens to be there
    mine = np.arange(10) < 5
    assert places.fixed_places(over, mine).tolist() == [False, False, False, True]
    assert places.sameness(over[1:5]) == 1
    corner = np.eye(16, dtype=bool)[:1]
    near, apart = np.roll(corner, 10, axis=1), np.roll(corner, 3, axis=1)  # of 4 x 4
    assert places.beside(near | apart, corner, (4, 4)) == 0.5
    assert places.beside(corner, np.zeros((1, 16), bool), (4, 4)) == 0
    half = places.sameness(np.array([[True, True, False], [False, True, True]]))
    assert half == pytest.approx(1 / 3)
    assert places.sameness(np.eye(3, dtype=bool)) == 0
    assert np.isnan(places.sameness(np.zeros((3, 4), bool)))


def test_colours_and_descriptors_of_patches():
    grid = PatchGrid((1, 2), (8, 16), (8, 8))
    pixels = np.zeros((1, 8, 16, 3), np.uint8)
    pixels[0, :, 8:, 0] = 200
    made = colours(pixels, grid)[0]
    assert made[0, 0] == 0 and made[1, 0] == pytest.approx(np.log(216 / 16), rel=1e-4)
    one = Keypoints(
        xy=torch.tensor([[9.0, 4.0], [12.0, 4.0]]), response=torch.ones(2), size=torch.ones(2),
        angle=torch.zeros(2), descriptor=torch.eye(128)[:2] * 9, image_size=(8, 16), detector="a",
    )  # fmt: skip
    patches = descriptors([one], grid)[0]
    assert not patches[0].any()
    assert patches[1, :2].tolist() == [0.5, 0.5]
    assert patches[1, 128] == pytest.approx(np.log(3))


def test_a_space_weighs_every_kind_alike_and_a_detector_goes_before_it():
    rng = np.random.default_rng(0)
    width = 2 * 6 + 4 + 129
    sample = rng.normal(size=(400, width)) * np.r_[np.full(6, 9.0), np.full(width - 6, 0.1)]
    space = fit_space(sample, 0)
    made = space(sample)
    parts = [made[:, :6], made[:, space.things]]
    assert [float(one.var(axis=0).mean()) for one in parts] == pytest.approx([1, 1], rel=1e-2)
    assert blocks_of(width)[1] == slice(6, 12)
    detector = Detector(rng.normal(size=made.shape[1]).astype(np.float32), 0.3, 1.0, -0.5)
    images = made[:12].reshape(3, 4, -1)
    count = (detector.scores(images) > 0).sum(axis=1)
    shown = 1 / (1 + np.exp(-(1.0 * np.log(1 + count) - 0.5)))
    own = 1 / (1 + np.exp(-detector.scores(images)))
    np.testing.assert_allclose(detector(images), own * shown[:, None], rtol=1e-5)
    before = detector.before(space)
    np.testing.assert_allclose(before.scores(sample), detector.scores(made), atol=1e-3)
    white = whiten(made)(made)
    assert np.abs(np.cov(white.T) - np.eye(white.shape[1])).max() < 0.4


def planted(shift: float, seed: int = 0):
    """60 images of 16 patches; the third patch of the class lies off by `shift`."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(60, 16, 6)).astype(np.float32)
    mine = np.arange(60) < 20
    values[mine, 3, 0] += shift
    off = np.ones((60, 16), bool)
    return Patches(values, off, mine, np.arange(60) % 3), Space(np.zeros(6), np.eye(6), slice(0, 3))


def test_candidates_are_what_the_class_shows_more_often():
    patches, space = planted(9.0)
    best = find(patches, space, 0)[0]
    assert best.p < 1e-10 and best.bears[patches.mine].mean() > 0.9
    assert best.bears[~patches.mine].mean() < 0.1
    assert best.like[patches.mine][:, 3].mean() > 0.9
    detector = fit_detector(patches.values, best.like, best.bears & patches.mine,
                            ~best.bears & ~patches.mine, 0)  # fmt: skip
    matches = detector(patches.values)
    assert matches[patches.mine][:, 3].min() > matches[~patches.mine].max()


def test_patches_on_the_object_are_not_counted():
    patches, space = planted(9.0)
    patches.off[:, 3] = False
    assert min(one.p for one in find(patches, space, 0)) > 1e-3


def test_where_there_is_nothing_no_more_than_chance_is_found():
    judged, small = 0, 0
    for seed in range(12):
        found = find(*planted(0.0, seed), 0)
        judged += len(found)
        small += sum(one.p * len(found) < 0.05 for one in found)
    assert judged > 20 and small <= 2  # of 12 searches at .05


def test_how_many_patches_tell_a_class():
    assert _needed(np.array([5, 6, 7]), np.array([0, 1, 4])) == 5
    assert shared(np.array([1, 1, 0]) > 0, np.array([0, 1, 0]) > 0) == 1


def test_partners_have_room_and_marks_grow_by_a_patch():
    wanted = np.array([[True, True, False, False]])
    free = np.array([[False, True, True, True], [True, True, False, False]])
    assert _fitting(np.random.default_rng(0), wanted, free).tolist() == [1]
    alone = _fitting(np.random.default_rng(0), free, free, itself=False)
    assert alone.tolist() == [1, 0]
    grown = widened(np.eye(9, dtype=bool)[4:5], PatchGrid((3, 3), (9, 9), (3, 3)))
    assert grown.all()
    assert widened(np.eye(9, dtype=bool)[:1], PatchGrid((3, 3), (9, 9), (3, 3))).sum() == 4
