"""Notes and refusals of a search for marks."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from semattn.spurious import erase_marks, find_marks
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
    assert discovery.notes == ("left out: 1 group of nearly the same photographs or scenes",)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1}, "alpha: expected a value between 0 and 1, got 1"),
     ({"max_marks": 0}, "max_marks: expected at least 1, got 0")],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        find_marks(marked.pairs(each=1, marked=0), **options)
