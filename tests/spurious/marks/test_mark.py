"""Pixels that a mark covers in its places."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from semattn.keypoints.mattes import Matte
from semattn.spurious.marks.masks import region_masks
from tests import marked

SIZE = (64, 80)


def test_a_mark_covers_its_strokes_and_in_few_images_its_outline():
    mark = replace(marked.mark(), n_inside=9, n_outside=3)
    places = mark.examples[0].regions
    (outline,) = region_masks([places], SIZE)
    assert np.array_equal(mark.pixels_of(places, SIZE), outline)
    opacity = np.zeros((11, 21), np.float32)
    opacity[4:6, 2:19] = 0.5  # one stroke
    stroke = Matte(np.zeros((11, 21, 3), np.float32), opacity, np.eye(2, 3))
    covered = replace(mark, matte=stroke).pixels_of(places, SIZE)
    assert covered.sum() == len(places) * (opacity > 0).sum() and outline[covered].all()
    for shift in (8, 40):
        assert covered[shift + 4 : shift + 6, shift + 2 : shift + 19].all()
    few = replace(mark, matte=stroke, n_inside=8)
    beyond = Matte(stroke.colour, np.ones_like(opacity), np.float32([[1, 0, 30], [0, 1, 0]]))
    assert np.array_equal(few.pixels_of(places, SIZE), outline)
    both = replace(few, matte=beyond).pixels_of(places, SIZE)
    assert both[outline].all() and both.sum() > outline.sum()
    for one in (replace(mark, matte=stroke), few):
        assert not one.pixels_of((), SIZE).any()
