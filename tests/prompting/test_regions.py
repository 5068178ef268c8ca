"""Regions are drawn to the pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semattn.grid import PatchGrid
from semattn.prompting import Box, Mask, Points, Polygon, coverage
from semattn.prompting.regions import RADIUS, draw


def test_a_box_has_both_its_corners_and_nothing_more():
    drawn = draw(Box(2, 1, 4, 3), (8, 10))
    wanted = np.zeros((8, 10), np.float32)
    wanted[1:4, 2:5] = 1
    np.testing.assert_array_equal(drawn, wanted)
    beyond = draw(Box(-5, -7, 2, 0), (8, 10))
    wanted[:] = 0
    wanted[0, :3] = 1
    np.testing.assert_array_equal(beyond, wanted)
    half = draw(Box(2.5, 1, 4, 3), (8, 10))
    assert half[2, 2] == pytest.approx(0.5) and half[2, 3] == 1


def test_a_point_is_a_disc_about_it():
    drawn = draw(Points([(20.0, 12.0)], radius=6.0), (40, 50))
    assert drawn.max() == 1 and drawn.sum() == pytest.approx(math.pi * 36, rel=0.05)
    y, x = np.mgrid[:40, :50]
    assert (drawn * x).sum() / drawn.sum() == pytest.approx(20, abs=0.2)
    assert (drawn * y).sum() / drawn.sum() == pytest.approx(12, abs=0.2)
    usual = draw(Points([(20.0, 12.0)]), (40, 50))
    assert usual.sum() == pytest.approx(math.pi * (RADIUS * 50) ** 2, rel=0.1)
    two = draw(Points([(20.0, 12.0), (40.0, 30.0)], radius=6.0), (40, 50))
    assert two.sum() == pytest.approx(2 * drawn.sum(), rel=0.01)


def test_a_polygon_is_what_lies_between_its_corners():
    drawn = draw(Polygon([(10, 5), (30, 5), (30, 25), (10, 25)]), (40, 50))
    assert drawn.max() == 1 and drawn.sum() == pytest.approx(20 * 20, rel=0.06)
    assert drawn[15, 20] == 1 and drawn[2, 20] == 0


def test_coverage_is_the_part_of_each_patch():
    grid = PatchGrid((2, 2), (20, 20), (10, 10))
    found = coverage(Box(0, 0, 14, 9), grid)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.0, 0.0]))
    mask = np.zeros((20, 20), np.uint8)
    mask[10:, :10] = 255
    torch.testing.assert_close(coverage(Mask(mask), grid), torch.tensor([0.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize("region", [Box(-9, -9, -1, 5), Box(3, 30, 5, 40)])
def test_a_region_outside_is_said(region):
    with pytest.raises(ValueError, match="region: expected one inside the picture of 20x20"):
        coverage(region, PatchGrid((2, 2), (20, 20), (10, 10)))
