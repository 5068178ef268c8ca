"""Tests of regions: drawing and coverage of patches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from semattn.grid import PatchGrid
from semattn.prompting import Box, Mask, Points, Polygon, coverage
from semattn.prompting.regions import RADIUS, draw


def test_a_box_includes_both_corners():
    pixels = draw(Box(2, 1, 4, 3), (8, 10))
    expected = np.zeros((8, 10), np.float32)
    expected[1:4, 2:5] = 1
    np.testing.assert_array_equal(pixels, expected)
    beyond = draw(Box(-5, -7, 2, 0), (8, 10))
    expected[:] = 0
    expected[0, :3] = 1
    np.testing.assert_array_equal(beyond, expected)
    half = draw(Box(2.5, 1, 4, 3), (8, 10))
    assert half[2, 2] == pytest.approx(0.5) and half[2, 3] == 1


def test_a_point_is_a_disc():
    pixels = draw(Points([(20.0, 12.0)], radius=6.0), (40, 50))
    assert pixels.max() == 1 and pixels.sum() == pytest.approx(math.pi * 36, rel=0.05)
    y, x = np.mgrid[:40, :50]
    assert (pixels * x).sum() / pixels.sum() == pytest.approx(20, abs=0.2)
    assert (pixels * y).sum() / pixels.sum() == pytest.approx(12, abs=0.2)
    default_radius = draw(Points([(20.0, 12.0)]), (40, 50))
    assert default_radius.sum() == pytest.approx(math.pi * (RADIUS * 50) ** 2, rel=0.1)
    two_points = draw(Points([(20.0, 12.0), (40.0, 30.0)], radius=6.0), (40, 50))
    assert two_points.sum() == pytest.approx(2 * pixels.sum(), rel=0.01)


def test_a_polygon_is_filled():
    pixels = draw(Polygon([(10, 5), (30, 5), (30, 25), (10, 25)]), (40, 50))
    assert pixels.max() == 1 and pixels.sum() == pytest.approx(20 * 20, rel=0.06)
    assert pixels[15, 20] == 1 and pixels[2, 20] == 0


def test_coverage_is_the_fraction_of_each_patch():
    grid = PatchGrid((2, 2), (20, 20), (10, 10))
    fractions = coverage(Box(0, 0, 14, 9), grid)
    torch.testing.assert_close(fractions, torch.tensor([1.0, 0.5, 0.0, 0.0]))
    mask = np.zeros((20, 20), np.uint8)
    mask[10:, :10] = 255
    torch.testing.assert_close(coverage(Mask(mask), grid), torch.tensor([0.0, 0.0, 1.0, 0.0]))


@pytest.mark.parametrize("region", [Box(-9, -9, -1, 5), Box(3, 30, 5, 40)])
def test_a_region_outside_the_picture_is_refused(region):
    with pytest.raises(ValueError, match="region: expected one inside the picture of 20x20"):
        coverage(region, PatchGrid((2, 2), (20, 20), (10, 10)))
