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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1}, "alpha: expected a value between 0 and 1, got 1"),
     ({"max_marks": 0}, "max_marks: expected at least 1, got 0")],
)  # fmt: skip
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        find_marks(marked.pairs(each=1, marked=0), **options)
