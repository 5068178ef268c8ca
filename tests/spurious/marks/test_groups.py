"""Groups of links and templates of marks at known places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semattn.keypoints.descriptor_index import background_distances
from semattn.keypoints.local_features import LocalFeatures, fine_sift
from semattn.keypoints.matching import Link, apply, invert, link_images
from semattn.keypoints.regions import outline_mask
from semattn.spurious.marks.groups import MAX_FEATURES, MAX_VIEWS, group_links, make_template
from semattn.spurious.marks.template import MarkTemplate
from tests.keypoints.drawn_marks import (
    SIZE,
    corners,
    emblem,
    features_of,
    paste,
    picture,
    placed,
    random_descriptors,
    tag,
)

Places = list[tuple]  # center, scale, degrees, whether mirrored
CASES: dict[str, list[Places]] = {
    "one place": [[((60, 40),)], [((120, 90), 1.2, 15)], [((100, 60), 0.9, -20)], [((50, 100),)]],
    "two places": [
        [((60, 40),), ((140, 110),)],
        [((140, 60), 1.2, 15), ((50, 110),)],
        [((100, 40), 0.9, -20)],
    ],
    "mirrored": [
        [((60, 40),)], [((120, 90), 1.2, 15, True)], [((100, 60), 1.1, -20)],
        [((50, 100), 1.0, 0, True)],
    ],
    "two sizes": [
        [((60, 40), 0.75)], [((110, 90), 1.5, 10)], [((120, 60), 0.75, 5)], [((70, 90), 1.5)],
    ],
}  # fmt: skip


def marked_features(mark, images: list[Places]) -> LocalFeatures:
    """Return features of pictures with a mark at several places, and of eight without."""
    pictures = [picture(number) for number in range(len(images))]
    for number, places in enumerate(images):
        for place in places:
            pictures[number] = paste(pictures[number], mark, placed(mark, *place))
    return features_of(pictures, n_plain=8)


def largest_group(features: LocalFeatures) -> tuple[list[Link], MarkTemplate]:
    """Return the links of the group with the most matches, and its template."""
    background = background_distances(features, 0.3)
    links = link_images(features, background)
    groups = [[links[number] for number in group] for group in group_links(features, links)]
    group = max(groups, key=lambda group: sum(len(link.first) for link in group))
    return group, make_template(features, background, group)


def images_of(features: LocalFeatures, group: list[Link]) -> set[int]:
    return {int(features.image[rows[0]]) for link in group for rows in (link.first, link.second)}


def overlap(outline: np.ndarray, other: np.ndarray) -> float:
    """Return intersection over union of two outlines."""
    first, second = (outline_mask([polygon], SIZE) for polygon in (outline, other))
    return float((first & second).sum() / (first | second).sum())


def check_located(template: MarkTemplate, mark, pixels: np.ndarray, places: Places) -> None:
    """Check that a template is located at all places of a mark, and nowhere else."""
    regions = template.locate(fine_sift(pixels))
    assert len(regions) == len(places)
    assert [region.matches for region in regions] == sorted(
        (region.matches for region in regions), reverse=True
    )
    for place in places:
        outline = corners(mark, placed(mark, *place))
        overlaps = [overlap(region.outline, outline) for region in regions]
        assert max(overlaps) > 0.7
        region = regions[int(np.argmax(overlaps))]
        assert region.is_mirrored == (np.linalg.det(region.transform[:, :2]) < 0)


@pytest.mark.parametrize("name", CASES)
def test_a_mark_is_one_group_and_located_in_new_images(name):
    images = CASES[name]
    # The frame of the tag looks the same after half a turn, which links copies of one image.
    mark = emblem() if name == "two places" else tag()
    features = marked_features(mark, images)
    group, template = largest_group(features)
    # Mirrored copies are linked among themselves; the template of either group finds all.
    groups = [{0, 2}, {1, 3}] if name == "mirrored" else [set(range(len(images)))]
    assert any(images_of(features, group) >= linked for linked in groups)
    located = template.locate_features(features)
    assert {number: len(regions) for number, regions in located.items()} == {
        number: len(places) for number, places in enumerate(images)
    }
    new = [((130, 50), 1.1, 30), ((60, 110), 0.9, -10, True)]
    for places in ([], new[:1], new[1:], new):
        pixels = picture(50)
        for place in places:
            pixels = paste(pixels, mark, placed(mark, *place))
        check_located(template, mark, pixels, places)


def test_mirrored_places_are_told_from_others():
    features = marked_features(tag(), CASES["mirrored"])
    _, template = largest_group(features)
    located = template.locate_features(features)
    is_mirrored = [region.is_mirrored for (region,) in located.values()]
    assert is_mirrored in ([False, True, False, True], [True, False, True, False])


def test_two_marks_in_the_same_images_are_two_groups():
    places = [
        (((60, 40),), ((130, 100),)), (((120, 90), 1.2, 15), ((50, 40), 0.9)),
        (((100, 110),), ((60, 40), 1.1, 40)),
    ]  # fmt: skip
    pictures = []
    for number, (first, second) in enumerate(places):
        pixels = paste(picture(number), tag(), placed(tag(), *first))
        pictures.append(paste(pixels, emblem(), placed(emblem(), *second)))
    features = features_of(pictures, n_plain=8)
    background = background_distances(features, 0.25)
    links = link_images(features, background)
    groups = [[links[number] for number in group] for group in group_links(features, links)]
    templates = [make_template(features, background, group) for group in groups]
    new = [((60, 50), 1.1, 10), ((140, 90), 1.0, -30)]
    pixels = paste(picture(50), tag(), placed(tag(), *new[0]))
    pixels = paste(pixels, emblem(), placed(emblem(), *new[1]))
    outlines = [corners(mark, placed(mark, *place))
                for mark, place in zip((tag(), emblem()), new, strict=True)]  # fmt: skip
    located = set()
    for template in templates:
        for region in template.locate(fine_sift(pixels)):
            overlaps = [overlap(region.outline, outline) for outline in outlines]
            assert max(overlaps) > 0.1 and min(overlaps) == 0
            if max(overlaps) > 0.5:
                located.add(int(np.argmax(overlaps)))
    assert located == {0, 1}


def test_a_template_returns_from_its_arrays():
    features = marked_features(tag(), CASES["one place"])
    _, template = largest_group(features)
    again = MarkTemplate.from_arrays(template.to_arrays())
    for name, values in template.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], values)
    pixels = paste(picture(50), tag(), placed(tag(), (90, 70)))
    first, second = (one.locate(fine_sift(pixels)) for one in (template, again))
    np.testing.assert_array_equal(first[0].outline, second[0].outline)
    assert len(template.features) == len(template.background) <= MAX_FEATURES
    assert not template.locate(fine_sift(np.full((40, 40, 3), 90, np.uint8)))


# --- links of drawn keypoints


def drawn(n_images: int, count: int = 20) -> LocalFeatures:
    """Return equal keypoints in each image."""
    rng = np.random.default_rng(0)
    xy, size = rng.random((count, 2)) * 50, 2 + rng.random(count)
    angle, descriptors = rng.random(count) * 360, random_descriptors(rng, count, 128)
    parts = (xy.astype(np.float32), size.astype(np.float32), angle.astype(np.float32), descriptors)
    stacked = (np.concatenate([part] * n_images) for part in parts)
    return LocalFeatures(*stacked, np.repeat(np.arange(n_images), count), n_images)


def link(first: int, second: int, rows, others=None, shift=(0.0, 0.0)) -> Link:
    """Return a link of two images of `drawn` by numbers of keypoints."""
    others = rows if others is None else others
    transform = np.column_stack([np.eye(2), shift])
    return Link(np.array(rows) + 20 * first, np.array(others) + 20 * second, transform, False)


def test_links_are_joined_by_more_than_half_of_the_keypoints_of_the_smaller_region():
    features = drawn(4)

    def groups(*links: Link) -> list[list[int]]:
        return sorted(map(sorted, group_links(features, links)))

    assert groups() == []
    six = range(6)
    assert groups(link(0, 1, six), link(1, 2, range(2, 8))) == [[0, 1]]
    assert groups(link(0, 1, six), link(1, 2, range(3, 9))) == [[0], [1]]
    # A link with two matches on each of two marks does not join them.
    bridge = link(0, 2, [4, 5, 10, 11])
    assert groups(link(0, 1, six), link(0, 3, range(10, 16)), bridge) == [[0], [1], [2]]
    assert groups(link(0, 1, six), link(1, 2, range(2, 16))) == [[0, 1]]  # 4 of 6
    assert groups(link(0, 1, six), link(2, 3, six)) == [[0], [1]]
    # Two regions of image 1 are joined by images 2 and 0.
    joined = link(0, 1, six), link(0, 1, six, range(10, 16)), link(1, 2, range(10, 16))
    assert groups(*joined) == [[0, 1, 2]]


def test_keypoints_that_do_not_agree_are_not_in_the_template():
    features = drawn(3)
    wrong = features.xy[20:40]
    wrong[15:] += 30  # keypoints 15 to 19 of image 1 are elsewhere
    links = [link(0, 1, range(20)), link(0, 2, range(12))]
    background = np.arange(60, dtype=np.float32)
    template = make_template(features, background, links)
    kept = [*range(15), *range(20, 35), *range(40, 52)]
    assert sorted(template.background.tolist()) == kept
    expected = features.xy[sorted(kept)]
    np.testing.assert_allclose(
        template.features.xy[np.argsort(template.background)], expected, atol=1e-5
    )


def test_a_template_has_the_frame_of_the_region_with_the_most_links():
    features = drawn(4)
    features.xy[20:40] += 100  # image 1
    links = [
        link(0, 1, range(10), shift=(100, 100)), link(1, 2, range(10), shift=(-100, -100)),
        link(1, 3, range(10), shift=(-100, -100)),
    ]  # fmt: skip
    template = make_template(features, np.zeros(80, np.float32), links)
    assert len(template.features) == 40
    np.testing.assert_allclose(
        np.sort(template.features.xy[:, 0])[::4], np.sort(features.xy[20:30, 0]), atol=1e-4
    )


def test_a_region_is_moved_along_its_strongest_links():
    features = drawn(3)
    # The weak link of images 0 and 2 is wrong; the way over image 1 is right.
    links = [link(0, 2, range(5), shift=(40, 0)), link(0, 1, range(20)), link(1, 2, range(20))]
    template = make_template(features, np.arange(60, dtype=np.float32), links)
    order = np.argsort(template.background)
    np.testing.assert_allclose(template.features.xy[order], features.xy, atol=1e-5)


def test_weak_links_are_not_used_for_the_template():
    features = drawn(4)
    features.xy[60:] += 100  # image 3
    links = [link(0, 1, range(20)), link(0, 2, range(6)), link(0, 3, range(5), shift=(70, 0))]
    template = make_template(features, np.arange(80, dtype=np.float32), links)
    assert sorted(template.background.tolist()) == [*range(46)]  # 6 of 20 matches, not 5


def test_views_are_turned_and_scaled_to_the_frame():
    features = drawn(3)
    transform = np.array([[0, -2.0, 9], [2, 0, 4]])  # of image 0 to image 1; image 2 is image 0
    rows = slice(20, 40)
    features.xy[rows] = apply(transform, features.xy[:20])
    features.size[rows] *= 2
    features.angle[rows] = (features.angle[:20] + 90) % 360
    links = [
        Link(np.arange(20), np.arange(20, 40), transform, False),
        Link(np.arange(20, 40), np.arange(40, 60), invert(transform), False),
    ]
    template = make_template(features, np.arange(60, dtype=np.float32), links)
    order = np.argsort(template.background)
    for name in ("xy", "size", "angle", "descriptors"):
        values = getattr(template.features, name)[order]
        for view in (slice(0, 20), slice(40, 60)):  # in the frame of image 1
            np.testing.assert_allclose(values[view], getattr(features, name)[rows], atol=1e-3)


def test_a_template_has_a_bounded_number_of_views_and_keypoints():
    count = MAX_VIEWS + 30
    features = drawn(count)
    links = [link(0, other, range(20)) for other in range(1, count)]
    background = np.arange(len(features), dtype=np.float32)
    template = make_template(features, background, links)
    assert len(template.features) == 20 * MAX_VIEWS <= MAX_FEATURES
    assert len(np.unique(template.background // 20)) == MAX_VIEWS


def test_a_place_whose_keypoints_are_in_a_stronger_place_is_dropped():
    features = drawn(2)
    outline = np.array([[0.0, 0], [50, 0], [50, 50], [0, 50]])
    template = MarkTemplate(features.rows(slice(20)), np.full(20, 0.1, np.float32), outline)
    # Six keypoints at the left match again, moved to the right part of the first place, or beyond.
    again = np.argsort(features.xy[:20, 0])[:6]
    for shift, count in ((27, 1), (80, 2)):
        rows = np.r_[np.arange(20), again]
        image = replace(features.rows(rows), image=np.zeros(len(rows), int), n_images=1)
        image.xy[20:, 0] += shift
        assert len(template.locate_features(image)[0]) == count


def test_a_small_part_of_a_mark_is_not_its_place():
    features = drawn(1)
    features.xy[:6] = features.xy[:6] * 0.2 + 10  # six keypoints within 10 of 50 pixels
    outline = np.array([[0.0, 0], [50, 0], [50, 50], [0, 50]])
    template = MarkTemplate(features, np.full(20, 0.1, np.float32), outline)
    assert template.locate_features(features.rows(slice(0, 6))) == {}
    (region,) = template.locate_features(features.rows(slice(6, 14)))[0]
    assert region.matches == 8
    np.testing.assert_allclose(region.outline, outline, atol=0.1)
    assert template.locate_features(features.rows(slice(6, 10))) == {}  # four matches
