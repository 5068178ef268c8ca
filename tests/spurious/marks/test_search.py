"""Notes and refusals of a search for marks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from semattn.spurious import erase_marks, find_marks
from semattn.spurious.marks.search import untested_reason
from semattn.viz.texts import marks_outcome
from tests import marked


def test_marks_beyond_the_maximum_are_counted():
    pairs = marked.pairs()
    for number, place in ((20, (10, 10)), (30, (50, 60))):
        picture = Image.fromarray(pairs[number][0])
        picture.paste(marked.emblem(), place)
        pairs[number] = (np.asarray(picture), pairs[number][1])
    discovery = find_marks(pairs, class_names=marked.NAMES, max_marks=1)
    assert [mark.name for mark in discovery.marks] == ["cat"]
    assert discovery.notes == ("1 of 2 marks are listed, the most significant",)
    assert (discovery.n_found, discovery.n_significant) == (2, 1)
    assert discovery.summary()["found"] == 2 and discovery.summary()["significant"] == 1
    marks = find_marks(pairs, class_names=marked.NAMES).marks
    counts = [erase_marks(marks, pairs[number][0])[1] for number in (0, 20, 35)]
    assert counts[0] == 1 and counts[1] >= 1 and counts[2] == 0
    both = Image.fromarray(pairs[0][0])
    both.paste(marked.emblem(), (52, 2) if pairs[0][0][2:32, 52:92].max() < 240 else (2, 62))
    pixels, n_places = erase_marks(marks, both)
    assert n_places >= 2
    assert not any(mark.locate(pixels) for mark in marks)
    same, none = erase_marks(marks, pairs[35][0])
    assert none == 0 and np.array_equal(same, pairs[35][0])


def test_examples_are_reduced_with_their_places():
    pairs = marked.pairs()
    large = [
        (np.asarray(Image.fromarray(pixels).resize((960, 960))), label) for pixels, label in pairs
    ]
    example = find_marks(large, class_names=marked.NAMES).marks[0].examples[0]
    assert example.pixels.shape == (448, 448, 3)
    number = int(example.name.removeprefix("image "))
    box = np.flatnonzero((pairs[number][0] == (250, 250, 240)).all(axis=2).any(axis=0))
    left, right = example.regions[0].outline[:, 0].min(), example.regions[0].outline[:, 0].max()
    assert left == pytest.approx(box.min() * 448 / 96, abs=20)
    assert right == pytest.approx(box.max() * 448 / 96, abs=20)


def test_all_images_of_a_mark_are_listed_with_places_in_pixels_of_the_image():
    """Pictures beyond 896 pixels are reduced for the search, and examples once more."""
    pairs = marked.pairs(marked=14)
    large = Image.new("RGB", (1000, 1792), (120, 130, 140))
    large.paste(marked.stamp().resize((88, 44)), (700, 1200))
    pairs[0] = (np.asarray(large), 0)
    (mark,) = find_marks(pairs, class_names=marked.NAMES).significant
    images = {image.name: image for image in mark.marked_images}
    assert len(images) == mark.images == 14 > len(mark.examples) == 12
    assert mark.summary()["image_names"] == [image.name for image in mark.marked_images]
    assert mark.summary()["images_without_example"] == 2
    assert [image.in_class for image in mark.marked_images] == [True] * 12 + [False] * 2
    for number in (0, 5, 13):
        pixels, label = pairs[number]
        image = images[f"image {number}"]
        assert image.class_name == marked.NAMES[label]
        located = mark.locate(pixels)[0].outline
        outline = image.regions[0].outline
        np.testing.assert_allclose(np.ptp(outline, axis=0), np.ptp(located, axis=0), rtol=0.2)
        np.testing.assert_allclose(outline.mean(0), located.mean(0), atol=4)
    center = images["image 0"].regions[0].outline.mean(axis=0)
    np.testing.assert_allclose(center, (700 + 44, 1200 + 22), atol=12)
    text = repr(mark)
    assert "\n" not in text and len(text) < 400 and "name='cat', n_inside=12" in text
    assert len(repr(mark.examples[0])) < 200 and len(repr(mark.examples[0].regions[0])) < 200


def test_more_significant_marks_than_are_listed_are_counted():
    pairs = marked.pairs()
    for number in range(24, 36):
        picture = Image.fromarray(pairs[number][0])
        picture.paste(marked.emblem(), (number, 2 * number - 40))
        pairs[number] = (np.asarray(picture), pairs[number][1])
    discovery = find_marks(pairs, class_names=marked.NAMES, max_marks=1)
    assert len(discovery.marks) == 1
    assert discovery.n_significant == discovery.summary()["significant"] == 2
    assert marks_outcome(discovery).startswith("2 marks are more frequent in one class")


@pytest.mark.parametrize(
    ("labels", "classes", "reason"),
    [
        ([None] * 4, {"": 4}, "the images have no classes, so no mark was tested; give a folder"),
        ([1] * 4, {"dog": 4}, "the images are all of one class, dog, so no mark was tested; give"),
        ([0, 0, None, 1], {"cat": 2, "dog": 1}, "the images are too few (3): no mark can be"),
        ([0, None, 0, 0], {"cat": 3}, "the images are all of one class, cat, so no mark"),
    ],
)
def test_a_search_that_can_find_nothing_significant_says_so(labels, classes, reason):
    pictures = [marked.noise(np.random.default_rng(seed)) for seed in range(4)]
    pairs = [(np.asarray(picture), label) for picture, label in zip(pictures, labels, strict=True)]
    discovery = find_marks(pairs, class_names=marked.NAMES)
    assert discovery.classes == classes and discovery.images == sum(classes.values())
    assert discovery.not_tested.startswith(reason)
    assert discovery.notes[-1] == discovery.not_tested == discovery.summary()["not_tested"]
    n_left_out = len(pairs) - discovery.images
    left_out = f"images without a class are left out: {n_left_out}"
    assert (left_out in discovery.notes) == (n_left_out > 0)


@pytest.mark.parametrize("sizes", [(3, 3), (4, 3), (2, 4), (1, 19), (1, 20), (1, 1, 1, 40)])
def test_a_search_is_tested_if_the_lowest_possible_p_value_is_significant(sizes):
    least = min(1 / math.comb(sum(sizes), size) for size in sizes)
    reason = untested_reason(dict(zip("abcd", sizes, strict=False)), 0.05)
    assert bool(reason) == (least >= 0.05)


def test_scaled_places_are_those_of_the_scaled_image():
    template, place = marked.mark().template, marked.mark().examples[0].regions[1]
    for factor in (1.0, 0.4, 3.0):
        scaled = template.scaled(place, factor)
        expected = (place.outline + 0.5) * factor - 0.5  # centers of pixels are at integers
        np.testing.assert_allclose(scaled.outline, expected)
        assert scaled.matches == place.matches and scaled.is_mirrored


def test_duplicates_of_a_marked_image_do_not_hide_the_mark():
    pairs = marked.pairs()
    discovery = find_marks([*pairs, pairs[3]], class_names=marked.NAMES)
    assert [mark.images for mark in discovery.significant] == [marked.MARKED + 1]
    (note,) = discovery.notes
    assert note.startswith("1 group of images shows nearly the same photograph or scene")
    assert "these images stay in the search" in note and '"same_scenes" in marks.json' in note
    assert discovery.same_scenes == (("image 3", "image 36"),)
    assert discovery.summary()["same_scenes"] == [["image 3", "image 36"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1}, "alpha: expected a value between 0 and 1, got 1"),
     ({"max_marks": 0}, "max_marks: expected at least 1, got 0")],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        find_marks(marked.pairs(each=1, marked=0), **options)
