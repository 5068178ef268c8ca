"""Links of images against the transforms by which marks were pasted, and refused matches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from semattn.keypoints.descriptor_index import DescriptorIndex, background_distances
from semattn.keypoints.local_features import LocalFeatures
from semattn.keypoints.matching import (
    MIN_INLIERS,
    PER_IMAGE,
    Link,
    _mutual_matches,
    _rank_in_group,
    apply,
    compose,
    concatenate,
    invert,
    link_images,
    match_features,
    may_agree,
    verify_matches,
)
from tests.keypoints.drawn_marks import (
    corners,
    emblem,
    features_of,
    paste,
    picture,
    placed,
    random_descriptors,
    tag,
)

UNRELATED = 4  # images without a mark, with which descriptors are compared
ROWS = np.arange(12)
POSES = [
    ((60, 40), 1.0, 0.0, False), ((120, 90), 1.3, 20.0, False), ((100, 70), 0.8, -90.0, False),
    ((110, 80), 1.0, 0.0, True), ((90, 75), 1.2, 160.0, True),
]  # fmt: skip


def similarity(scale: float, degrees: float, shift=(0.0, 0.0), mirrored=False) -> np.ndarray:
    """Return a similarity transform (2, 3), which mirrors x first if `mirrored`."""
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.column_stack([linear @ np.diag([-1.0 if mirrored else 1.0, 1.0]), shift])


def drawn_features(seed: int = 0, count: int = 12) -> LocalFeatures:
    """Return keypoints at random places of an area of 60 x 40 pixels."""
    rng = np.random.default_rng(seed)
    xy = rng.random((count, 2)) * [60, 40] + [70, 50]
    size, angle = 3 * 2 ** rng.random(count), rng.random(count) * 360
    descriptors = random_descriptors(rng, count, 128)
    return _features(xy, size, angle, descriptors)


def moved(features: LocalFeatures, transform: np.ndarray) -> LocalFeatures:
    """Return features after a similarity transform; angles are those of moved directions."""
    turns = np.deg2rad(features.angle.astype(float))
    ahead = features.xy + np.stack([np.cos(turns), np.sin(turns)], axis=1)
    start, end = apply(transform, features.xy), apply(transform, ahead)
    angle = np.degrees(np.arctan2(*(end - start).T[::-1])) % 360
    scale = np.sqrt(abs(np.linalg.det(transform[:, :2])))
    return _features(start, features.size * scale, angle, features.descriptors)


def _features(xy, size, angle, descriptors) -> LocalFeatures:
    arrays = (np.array(values, np.float32) for values in (xy, size, angle, descriptors))
    return LocalFeatures(*arrays, np.zeros(len(xy), int), 1)


def matched_links(first: LocalFeatures, second: LocalFeatures, mirrored=False) -> list[Link]:
    """Return the links of the matches of equal rows."""
    rows = np.arange(len(first))
    return verify_matches(first, second, rows, rows, mirrored)


# --- transforms


@pytest.mark.parametrize("mirrored", [False, True])
def test_transforms_are_composed_and_inverted(mirrored):
    first, second = similarity(1.5, 30, (4, -7), mirrored), similarity(0.5, 200, (-1, 9))
    xy = np.random.default_rng(0).normal(size=(5, 2))
    expected = [first[:, :2] @ point + first[:, 2] for point in xy]
    np.testing.assert_allclose(apply(first, xy), expected)
    np.testing.assert_allclose(apply(compose(second, first), xy), apply(second, apply(first, xy)))
    np.testing.assert_allclose(apply(invert(first), apply(first, xy)), xy, atol=1e-12)


def test_features_are_concatenated_as_of_one_image():
    parts = [drawn_features(seed, count) for seed, count in ((0, 3), (1, 0), (2, 4))]
    whole = concatenate(parts)
    assert len(whole) == 7 and whole.n_images == 1 and not whole.image.any()
    for name in ("xy", "size", "angle", "descriptors"):
        values = getattr(whole, name)
        np.testing.assert_array_equal(values[:3], getattr(parts[0], name))
        np.testing.assert_array_equal(values[3:], getattr(parts[2], name))


# --- verification of matches


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(("scale", "degrees"), [(1, 0), (0.45, 170), (2.3, -75), (1.2, 359)])
def test_matches_of_a_similarity_are_a_link_without_outliers(scale, degrees, mirrored):
    transform = similarity(scale, degrees, (9, -4), mirrored)
    first = drawn_features()
    second = moved(first, transform)
    second.xy[[2, 5]] += (60, -45)
    (link,) = matched_links(first, second, mirrored)
    inliers = np.delete(ROWS, [2, 5])
    assert link.first.tolist() == link.second.tolist() == inliers.tolist()
    assert link.is_mirrored == mirrored
    np.testing.assert_allclose(
        apply(link.transform, first.xy[inliers]), second.xy[inliers], atol=0.05
    )
    np.testing.assert_allclose(link.transform[:, :2], transform[:, :2], atol=1e-3)
    assert not matched_links(first, second, not mirrored)


def test_three_matches_are_no_link_and_four_are():
    transform = similarity(1, 20)
    first = drawn_features(1, 4)
    assert len(matched_links(first, moved(first, transform))) == 1
    three = first.rows(slice(3))
    assert not matched_links(three, moved(three, transform))
    assert not matched_links(three.rows(slice(0)), three.rows(slice(0)))


@pytest.mark.parametrize("side", ["both", "first", "second", "one point"])
def test_matches_on_a_line_are_no_link(side):
    first = drawn_features()
    first.xy[:, 1] = 60 + 0.2 * first.xy[:, 0]
    if side in ("first", "second"):  # wide enough in the other image
        width = 0.4 if side == "first" else 0.8
        first.xy[:, 1] += np.where(ROWS % 2, width, -width)
    second = moved(first, similarity(2.2 if side == "first" else 0.6, 10))
    if side == "one point":
        second.xy[:] = 50
    assert not matched_links(first, second)


def test_four_matches_at_two_places_are_no_link():
    first = drawn_features(2, 4)
    first.xy[2:] = first.xy[:2] + 0.1
    assert not matched_links(first, moved(first, similarity(1, 0)))


def test_a_feature_is_used_by_a_match_of_a_link_once():
    first = drawn_features(3, 6)
    second = moved(first, similarity(1, 0, (5, 5)))
    rows, pairs = np.array([0, 1, 2, 3, 4, 5, 0, 1]), np.array([0, 1, 2, 3, 4, 5, 1, 0])
    second.xy[1] = second.xy[0] + (1, 1)  # features 0 and 1 are within the greatest error
    first.xy[1] = first.xy[0] + (1, 1)
    second.size[:2], second.angle[:2] = first.size[0], first.angle[0]
    first.size[:2], first.angle[:2] = first.size[0], first.angle[0]
    (link,) = verify_matches(first, second, rows, pairs, False)
    assert len(set(link.first.tolist())) == len(link.first) == 6
    assert len(set(link.second.tolist())) == len(link.second) == 6
    few = np.array([0, 1, 2])
    repeated = verify_matches(first, second, np.r_[few, few], np.r_[few, few], False)
    assert not repeated


def test_inconsistent_angles_or_sizes_are_no_link():
    first = drawn_features()
    second = moved(first, similarity(1.2, 40))
    turned, resized = (moved(first, similarity(1.2, 40)) for _ in range(2))
    turned.angle[:] = (turned.angle + 90) % 360
    resized.size[:] *= 2
    assert len(matched_links(first, second)) == 1
    assert not matched_links(first, turned) and not matched_links(first, resized)
    second.angle[[1, 4]] += 50
    second.size[[7]] *= 0.5
    (link,) = matched_links(first, second)
    assert link.first.tolist() == np.delete(ROWS, [1, 4, 7]).tolist()
    second.angle[:9] += 180
    assert not matched_links(first, second)


@pytest.mark.parametrize(("scale", "n_links"), [(2.4, 1), (2.7, 0), (0.42, 1), (0.37, 0)])
def test_marks_of_very_different_sizes_are_no_link(scale, n_links):
    first = drawn_features()
    assert len(matched_links(first, moved(first, similarity(scale, 0)))) == n_links


def test_two_similarities_are_two_links():
    transforms = similarity(1, 0, (-60, 0)), similarity(1.2, 50, (90, -60))
    first = drawn_features()
    second = concatenate([moved(first, transform) for transform in transforms])
    links = verify_matches(first, second, np.r_[ROWS, ROWS], np.arange(24), False)
    assert len(links) == 2
    order = sorted(links, key=lambda link: link.second[0])
    for link, transform, rows in zip(order, transforms, (ROWS, ROWS + 12), strict=True):
        assert link.first.tolist() == ROWS.tolist() and link.second.tolist() == rows.tolist()
        np.testing.assert_allclose(link.transform, transform, atol=0.05)


# --- matches that may agree


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.4, 2.5), st.floats(-360, 360), st.booleans(), st.integers(0, 99),
    st.integers(MIN_INLIERS, 9), st.floats(0, 0.99),
)  # fmt: skip
def test_matches_of_a_similarity_may_agree(scale, degrees, mirrored, seed, count, spread):
    rng = np.random.default_rng(seed)
    first = drawn_features(seed, count + 1)
    second = moved(first, similarity(scale, degrees, (5, 9), mirrored))
    # Errors within a bin never separate matches; the last match is wrong.
    second.angle[:] = (second.angle + spread * 30 * rng.random(count + 1)) % 360
    second.size[:] *= 2 ** (spread * 0.8 * rng.random(count + 1))
    second.size[-1] *= 2 ** rng.uniform(-8, -4)
    rows, pair = np.arange(count + 1), np.zeros(count + 1, int)
    keep = may_agree(first, second, rows, rows, mirrored, pair)
    assert keep[:-1].all() and not keep[-1]


def test_matches_without_three_others_like_them_are_removed():
    first = drawn_features()
    second = moved(first, similarity(1, 0))
    second.angle[:3] += 100
    second.size[3:6] *= 6
    one = np.zeros(12, int)
    keep = may_agree(first, second, ROWS, ROWS, False, one)
    assert keep.tolist() == [False] * 6 + [True] * 6
    pair = np.array([0] * 9 + [7] * 3)  # three of one pair of images, and three of another
    assert not may_agree(first, second, ROWS, ROWS, False, pair).any()
    assert may_agree(first, second, ROWS[:0], ROWS[:0], False, one[:0]).shape == (0,)


def test_rank_in_group_is_the_place_in_sorted_order():
    rng = np.random.default_rng(0)
    group, distance = rng.integers(0, 5, 40), rng.random(40)
    expected = [
        sum(distance[j] < distance[i] and group[j] == group[i] for j in range(40))
        for i in range(40)
    ]
    assert _rank_in_group(group, distance).tolist() == expected
    assert _rank_in_group(group[:0], distance[:0]).shape == (0,)


def test_matches_are_mutual_among_the_nearest_of_each_image():
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(3), 10)
    features = LocalFeatures(
        np.zeros((30, 2)), np.ones(30), np.zeros(30), random_descriptors(rng, 30, 6), image, 3
    )
    background = rng.uniform(0.1, 0.5, 30)
    distance = ((features.descriptors[:, None] - features.descriptors[None]) ** 2).sum(axis=2)

    def is_near(row: int, other: int) -> bool:
        is_close = distance[row] < 0.8 * np.minimum(background[row], background)
        closer = is_close & (image == image[other]) & (distance[row] < distance[row, other])
        return bool(is_close[other]) and closer.sum() < PER_IMAGE

    expected = {(i, j) for i in range(30) for j in range(30)
                if image[i] < image[j] and is_near(i, j) and is_near(j, i)}  # fmt: skip
    one_sided = {(i, j) for i in range(30) for j in range(30)
                 if image[i] < image[j] and is_near(i, j)}  # fmt: skip
    index = DescriptorIndex(features.descriptors)
    first, second = _mutual_matches(features, background, index)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(first) == len(expected) < len(one_sided)


# --- marks in pictures


def marked(poses: list, mark=None) -> tuple[LocalFeatures, list[np.ndarray]]:
    """Return the features of a marked picture for each pose and of unrelated ones, and places."""
    mark = mark or tag()
    transforms = [placed(mark, *pose) for pose in poses]
    pictures = [paste(picture(n), mark, at) for n, at in enumerate(transforms)]
    return features_of(pictures, UNRELATED), transforms


@pytest.mark.parametrize("mark", [tag, emblem], ids=["tag", "emblem"])
@pytest.mark.parametrize("pose", POSES[1:], ids=str)
def test_a_mark_is_linked_at_its_place_scale_and_rotation(mark, pose):
    features, (first, second) = marked([POSES[0], pose], mark())
    background = background_distances(features, 0.25)
    links = link_images(features, background)
    if pose[-1]:  # images of opposite handedness are linked by a template only
        assert all(link.is_mirrored is False for link in links)
        rows = features.image == 0
        links = match_features(features.rows(rows), background[rows], features)
        links = [link for link in links if features.image[link.second[0]] == 1]
    link = _strong(links)[0]
    assert set(features.image[link.first]) == {0} and set(features.image[link.second]) == {1}
    assert link.is_mirrored == pose[-1] == (np.linalg.det(link.transform[:, :2]) < 0)
    error = apply(link.transform, corners(mark(), first)) - corners(mark(), second)
    assert np.hypot(*error.T).max() < 2


def _strong(links: list[Link]) -> list[Link]:
    """Return the links with the most matches; letters that look alike give weaker ones."""
    most = max(len(link.first) for link in links)
    return [link for link in links if len(link.first) > 0.5 * most]


def test_links_of_three_images_join_each_pair_once():
    features, transforms = marked(POSES[:3])
    background = background_distances(features, 0.25)
    links = _strong(link_images(features, background))
    pairs = sorted((features.image[at.first[0]], features.image[at.second[0]]) for at in links)
    assert pairs == [(0, 1), (0, 2), (1, 2)]
    again = _strong(link_images(features, background))
    for link, other in zip(links, again, strict=True):
        np.testing.assert_array_equal(link.transform, other.transform)
        np.testing.assert_array_equal(link.first, other.first)
    for link in links:
        first, second = (int(features.image[rows[0]]) for rows in (link.first, link.second))
        error = apply(link.transform, corners(tag(), transforms[first]))
        assert np.hypot(*(error - corners(tag(), transforms[second])).T).max() < 3


def test_two_copies_in_an_image_are_two_links():
    at, *copies = (placed(tag(), (60, 40)), placed(tag(), (50, 40)), placed(tag(), (140, 105)))
    pictures = [paste(picture(0), tag(), at), picture(1)]
    for copy in copies:
        pictures[1] = paste(pictures[1], tag(), copy)
    features = features_of(pictures, UNRELATED)
    links = _strong(link_images(features, background_distances(features, 0.25)))
    assert len(links) == 2
    places = [apply(link.transform, corners(tag(), at)) for link in links]
    for copy in copies:
        errors = [np.hypot(*(place - corners(tag(), copy)).T).max() for place in places]
        assert min(errors) < 2 and max(errors) > 50


def test_unrelated_pictures_have_no_links():
    features = features_of([picture(n) for n in range(6)])
    assert len(features) > 200
    assert not link_images(features, background_distances(features, 0.25))


def test_images_with_few_or_no_keypoints_have_no_links():
    flat = np.full((40, 40, 3), 90, np.uint8)
    few = features_of([flat, picture(0, (24, 24)), flat, flat])
    assert len(few)
    for features in (few, features_of([flat] * 3), features_of([picture(0)])):
        assert link_images(features, background_distances(features, 0.5)) == []


# --- a template in an image


def with_noise(features: LocalFeatures, amount: float) -> LocalFeatures:
    """Return features with other descriptors at about the distance `amount`."""
    noise = np.random.default_rng(9).normal(size=features.descriptors.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    values = features.descriptors + amount * noise
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return _features(features.xy, features.size, features.angle, values)


def test_the_nearest_features_of_an_image_are_matched():
    template = drawn_features(4, 8)
    shifts = [(100.0 * n, 0) for n in (3, 1, 4, 0, 2)]
    copies = [with_noise(moved(template, similarity(1, 0, shift)), 0.05 * (n + 1))
              for n, shift in enumerate(shifts)]  # fmt: skip
    links = match_features(template, np.full(8, 0.3, np.float32), concatenate(copies))
    assert len(links) == PER_IMAGE
    moves = sorted(link.transform[0, 2] for link in links)
    assert moves == pytest.approx(sorted(shift[0] for shift in shifts[:PER_IMAGE]), abs=0.1)


def test_several_images_have_the_links_of_each():
    template = drawn_features(4, 8)
    images = [moved(template, similarity(1, 10 * n, (9 * n, 4))) for n in range(5)]
    images.insert(2, drawn_features(8, 30))
    whole = replace(concatenate(images), image=np.repeat(np.arange(6), [len(i) for i in images]),
                    n_images=6)  # fmt: skip
    background = np.full(8, 0.3, np.float32)
    links = match_features(template, background, whole)
    assert [int(whole.image[link.second[0]]) for link in links] == [0, 1, 3, 4, 5]
    for link in links:
        number = int(whole.image[link.second[0]])
        (alone,) = match_features(template, background, images[number])
        np.testing.assert_array_equal(link.transform, alone.transform)
        np.testing.assert_array_equal(link.second - whole.starts[number], alone.second)
    some = whole.of_images([3, 1])
    assert [int(some.image[link.second[0]]) for link in match_features(template, background, some)
            ] == [1, 3]  # fmt: skip


def test_parts_of_the_comparison_do_not_change_links(monkeypatch):
    template = drawn_features(4, 8)
    copies = [with_noise(moved(template, similarity(1, 0, (100.0 * n, 0))), 0.05 * (n + 1))
              for n in range(4)]  # fmt: skip
    image = concatenate(copies)
    background = np.full(8, 0.3, np.float32)
    expected = match_features(template, background, image)
    monkeypatch.setattr("semattn.keypoints.matching.MAX_COMPARED", 8 * 5)
    links = match_features(template, background, image)
    assert {tuple(link.second) for link in links} == {tuple(link.second) for link in expected}


def test_a_match_is_closer_than_four_fifths_of_the_background():
    template = drawn_features(5, 8)
    image = with_noise(moved(template, similarity(1, 0)), 0.3)
    distance = ((template.descriptors - image.descriptors) ** 2).sum(axis=1)
    assert not match_features(template, distance / 0.81, image)
    (link,) = match_features(template, distance / 0.79, image)
    assert link.first.tolist() == link.second.tolist() == list(range(8))


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirrored_template_is_matched_by_mirrored_descriptors(mirrored):
    template = drawn_features(6, 9)
    transform = similarity(0.9, 65, (3, 3), mirrored)
    image = moved(template, transform)
    if mirrored:
        image.descriptors[:] = template.mirrored_descriptors()
    (link,) = match_features(template, np.full(9, 0.1, np.float32), image)
    assert link.is_mirrored == mirrored
    np.testing.assert_allclose(link.transform, transform, atol=0.05)


def test_fewer_features_than_a_link_needs_are_not_matched():
    template, image = drawn_features(7, 8), drawn_features(7, 3)
    background = np.full(8, 0.5, np.float32)
    assert match_features(template, background, image) == []
    assert match_features(image, background[:3], template) == []
