"""Masks, inpainting and mean pictures of regions at known places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import ConvexHull

from semattn.keypoints.regions import (
    ERASED_MARGIN,
    area,
    convex_outline,
    inpaint,
    mean_in_frame,
    outline_mask,
    shared_part,
)
from tests.keypoints.drawn_marks import corners, emblem, paste, picture, placed

SQUARE = np.array([[10.0, 5], [19, 5], [19, 12], [10, 12]], np.float32)


def hull_area(outline: np.ndarray) -> float:
    return float(ConvexHull(outline).volume)


def test_areas_of_polygons_agree_with_their_pixels():
    rng = np.random.default_rng(3)
    for _ in range(20):
        first, second = (
            convex_outline(rng.random((5, 2)) * 120 + 40, rng.random(5) * 20) for _ in range(2)
        )
        masks = [outline_mask([outline], (200, 200)) for outline in (first, second)]
        assert area(first) == pytest.approx(hull_area(first), rel=1e-4)
        shared = (masks[0] & masks[1]).sum() / min(mask.sum() for mask in masks)
        assert shared_part(first, second) == pytest.approx(shared, abs=0.03)
        assert shared_part(second, first) == pytest.approx(shared_part(first, second), abs=1e-4)
    assert shared_part(SQUARE, SQUARE + 50) == 0


def test_the_outline_is_the_hull_of_circles():
    single = convex_outline(np.array([[5.0, 7.0]]), np.array([2.0]))
    np.testing.assert_allclose(np.hypot(*(single - [5, 7]).T), 2, atol=1e-5)
    assert len(single) == 8
    rng = np.random.default_rng(0)
    xy, radius = rng.random((9, 2)) * 40, rng.random(9) * 3
    turns = np.arange(8) * np.pi / 4
    points = np.concatenate(
        [center + r * np.column_stack([np.cos(turns), np.sin(turns)])
         for center, r in zip(xy, radius, strict=True)]
    )  # fmt: skip
    assert hull_area(convex_outline(xy, radius)) == pytest.approx(hull_area(points), rel=1e-5)
    bare = convex_outline(xy, np.zeros(9))
    assert area(bare) == pytest.approx(hull_area(xy), rel=1e-5)


def test_a_mask_has_the_pixels_of_all_outlines():
    mask = outline_mask([SQUARE, SQUARE + np.array([20, 3])], (30, 50))
    expected = np.zeros((30, 50), bool)
    expected[5:13, 10:20] = expected[8:16, 30:40] = True
    np.testing.assert_array_equal(mask, expected)
    assert not outline_mask([], (3, 4)).any() and outline_mask([], (3, 4)).shape == (3, 4)
    partly = outline_mask([SQUARE - np.array([15, 0])], (30, 50))  # part of it is outside the image
    expected[:] = False
    expected[5:13, :5] = True
    np.testing.assert_array_equal(partly, expected)
    assert not outline_mask([SQUARE + 1000], (30, 50)).any()


def test_inpainting_changes_the_mask_and_its_margin_only():
    pixels = np.full((40, 50, 3), (90, 120, 150), np.uint8)
    marked = pixels.copy()
    mask = outline_mask([SQUARE], (40, 50))
    marked[mask] = (255, 0, 0)
    marked[4, 10:20] = (250, 10, 10)  # a soft edge of the mark
    filled = inpaint(marked, mask)
    np.testing.assert_allclose(filled.astype(int), pixels, atol=4)  # Telea rounds by levels
    noisy = picture(0)
    mask = outline_mask([SQUARE + 20], noisy.shape[:2])
    changed = (inpaint(noisy, mask) != noisy).any(axis=2)
    rows, columns = np.nonzero(changed)
    margin = ERASED_MARGIN
    assert (rows.min(), rows.max()) == (25 - margin, 32 + margin)
    assert (columns.min(), columns.max()) == (30 - margin, 39 + margin)


def test_an_empty_mask_copies_the_image():
    pixels = picture(0)
    copy = inpaint(pixels, np.zeros(pixels.shape[:2], bool))
    np.testing.assert_array_equal(copy, pixels)
    assert copy is not pixels


def test_a_picture_without_other_pixels_is_filled_without_error():
    pixels = picture(0, (20, 30))
    filled = inpaint(pixels, np.ones((20, 30), bool))
    assert filled.shape == pixels.shape and filled.dtype == np.uint8


def test_pictures_are_moved_to_the_frame_of_the_mark():
    mark = emblem()
    own = placed(mark, ((mark.width - 1) / 2, (mark.height - 1) / 2))
    outline = corners(mark, own)
    poses = [((60, 50), 1.0, 0), ((120, 90), 1.3, 25), ((80, 70), 0.9, 200)]
    places = [placed(mark, *pose, mirrored) for pose, mirrored in
              zip(poses, (False, True, False), strict=True)]  # fmt: skip
    pictures = [paste(picture(n), mark, place) for n, place in enumerate(places)]
    mean, crops = mean_in_frame(pictures, places, outline)
    shown = np.asarray(mark.convert("RGBA"))
    assert mean.shape == (2 * (mark.height - 1), 2 * (mark.width - 1), 3)
    np.testing.assert_array_equal(mean, np.mean(crops, axis=0).round())
    opaque = shown[..., 3][:-1, :-1] == 255
    for crop in crops:
        difference = crop[::2, ::2].astype(float) - shown[:-1, :-1, :3]
        assert np.abs(difference[opaque]).mean() < 12
    # A large frame is reduced, and a frame of one point has one pixel.
    large, _ = mean_in_frame(pictures[:1], places[:1], outline * 20)
    assert max(large.shape) == 600
    point, _ = mean_in_frame(pictures[:1], places[:1], outline[:1])
    assert point.shape == (2, 2, 3)


def test_the_blurred_border_of_a_large_mark_does_not_show_in_the_filling():
    small = np.full((96, 96, 3), 200, np.uint8)
    small[30:60, 20:70] = 0
    large = np.asarray(Image.fromarray(small).resize((960, 960), Image.Resampling.BICUBIC))
    mask = np.zeros((960, 960), bool)
    mask[300:600, 200:700] = True
    assert inpaint(large, mask).min() > 180
