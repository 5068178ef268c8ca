"""Growth of the template of a mark whose parts vary from image to image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semattn.keypoints.local_features import LocalFeatures
from semattn.keypoints.matching import apply
from semattn.keypoints.regions import area, convex_outline
from semattn.spurious.marks.growth import _recurs, grow_template
from semattn.spurious.marks.template import MarkTemplate
from tests.keypoints.drawn_marks import random_descriptors

SIDE, NOISE = 60, 25  # keypoints of the mark, and of the rest of each image
IMAGES, LARGE = 6, 1e9
START = slice(20, 40)  # keypoints of the template before it grows: the middle of the mark


def pose(number: int) -> np.ndarray:
    turn, scale = np.deg2rad(25 * number), 1 + 0.1 * number
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([linear, [90 + 20 * number, 70 - 10 * number]])


@pytest.fixture(scope="module")
def mark() -> LocalFeatures:
    """Return the keypoints of a mark of 120 x 20 pixels in its frame, from left to right."""
    rng = np.random.default_rng(26)
    xy = np.column_stack([np.linspace(0, 120, SIDE), rng.uniform(0, 20, SIDE)]).astype(np.float32)
    return LocalFeatures(
        xy, rng.uniform(4, 6, SIDE).astype(np.float32),
        rng.uniform(0, 360, SIDE).astype(np.float32),
        random_descriptors(rng, SIDE, 128), np.zeros(SIDE, int), 1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def features(mark) -> LocalFeatures:
    """Return images that each show every keypoint but a third of the mark, and noise."""
    rng = np.random.default_rng(27)
    columns: list[list[np.ndarray]] = [[], [], [], [], []]
    for number in range(IMAGES):
        transform = pose(number)
        scale = float(np.hypot(*transform[:, 0]))
        is_shown = np.arange(SIDE) % 3 != number % 3
        is_shown[START] = True
        shown = np.flatnonzero(is_shown)
        noise = rng.uniform(0, 200, (NOISE, 2))
        columns[0].append(np.vstack([apply(transform, mark.xy[shown]), noise]))
        columns[1].append(np.r_[mark.size[shown] * scale, rng.uniform(4, 6, NOISE)])
        columns[2].append(np.r_[(mark.angle[shown] + 25 * number) % 360,
                                rng.uniform(0, 360, NOISE)])  # fmt: skip
        columns[3].append(np.vstack([mark.descriptors[shown], random_descriptors(rng, NOISE, 128)]))
        columns[4].append(np.full(len(shown) + NOISE, number))
    xy, size, angle, descriptors = (np.concatenate(part).astype(np.float32) for part in columns[:4])
    return LocalFeatures(xy, size, angle, descriptors, np.concatenate(columns[4]), IMAGES)


def fragment(mark: LocalFeatures, rows: slice) -> MarkTemplate:
    part = mark.rows(rows)
    return MarkTemplate(
        part, np.full(len(part), 0.5, np.float32), convex_outline(part.xy, part.size / 2)
    )


def grow(template: MarkTemplate, features: LocalFeatures, max_area: float = LARGE, **places):
    regions = template.locate_features(features)
    background = np.full(len(features), 0.5, np.float32)
    return grow_template(template, places.get("regions", regions), features, background, max_area)


def test_a_fragment_grows_to_the_whole_mark(mark, features):
    template = fragment(mark, START)
    assert sorted(template.locate_features(features)) == list(range(IMAGES))
    grown, regions = grow(template, features)
    x = grown.features.xy[:, 0]
    assert np.ptp(template.features.xy[:, 0]) < 45 and np.ptp(x) == pytest.approx(120, abs=2)
    assert sorted(regions) == list(range(IMAGES))
    for number, (region,) in regions.items():
        whole = apply(pose(number), mark.xy)
        np.testing.assert_allclose(region.outline.min(axis=0), whole.min(axis=0), atol=6)
        np.testing.assert_allclose(region.outline.max(axis=0), whole.max(axis=0), atol=6)


def test_keypoints_of_the_template_have_their_places_and_descriptors(mark, features):
    grown, _ = grow(fragment(mark, START), features)
    nearest = (grown.features.descriptors @ mark.descriptors.T).argmax(axis=1)
    np.testing.assert_allclose(grown.features.xy, mark.xy[nearest], atol=2)
    np.testing.assert_allclose(grown.features.size, mark.size[nearest], rtol=0.02)
    turn = (grown.features.angle - mark.angle[nearest] + 180) % 360 - 180
    assert abs(turn).max() < 2
    # No keypoint of the noise is in it, and each is in every image that shows it.
    assert (grown.features.descriptors @ mark.descriptors.T).max(axis=1).min() > 0.999


@pytest.mark.parametrize("rows", [slice(SIDE), slice(45)])
def test_a_template_of_most_of_the_mark_is_kept(mark, features, rows):
    template = fragment(mark, rows)
    grown, regions = grow(template, features)
    assert grown is template and sorted(regions) == list(range(IMAGES))


def test_a_template_does_not_grow_beyond_the_largest_area(mark, features):
    template = fragment(mark, START)
    limit = 1.05 * area(template.outline)
    assert grow(template, features, limit)[0] is template


def test_mirrored_places_and_a_single_place_do_not_grow(mark, features):
    template = fragment(mark, START)
    regions = template.locate_features(features)
    mirrored = {
        number: [replace(region, is_mirrored=True) for region in of_image]
        for number, of_image in regions.items()
    }
    assert grow(template, features, regions=mirrored)[0] is template
    assert grow(template, features, regions={2: regions[2]})[0] is template


def test_a_keypoint_recurs_at_the_same_place_of_another_view_only(mark):
    pair = replace(
        mark.rows(np.r_[np.arange(5), np.arange(5)]), image=np.zeros(10, int)
    )  # two views of five keypoints
    view, limits = np.repeat([0, 1], 5), np.full(10, 0.1, np.float32)
    assert _recurs(pair, view, limits).all()
    assert not _recurs(pair, np.zeros(10, int), limits).any()
    changes = {"xy": np.float32([30, 0]), "size": 6.0, "angle": 50.0}
    for name, change in changes.items():
        values = getattr(pair, name).copy()
        values[5] += change
        changed = replace(pair, **{name: values})
        assert _recurs(changed, view, limits).tolist() == [False, True, True, True, True] * 2
    swapped = pair.descriptors.copy()
    swapped[5] = mark.descriptors[9]
    assert not _recurs(replace(pair, descriptors=swapped), view, limits)[[0, 5]].any()
    assert not _recurs(pair.rows(slice(0)), view[:0], limits[:0]).any()
