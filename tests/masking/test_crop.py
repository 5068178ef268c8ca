"""Tests of crops: keypoints are transformed like the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints, detect
from semattn.masking import Crop, generator


def keypoints(xy, image_size, size=8.0, angle=30.0):
    xy = torch.tensor(xy, dtype=torch.float32).reshape(-1, 2)
    count = len(xy)
    return Keypoints(
        xy=xy, response=torch.arange(count, 0, -1.0), size=torch.full((count,), size),
        angle=torch.full((count,), angle), descriptor=None, image_size=image_size, detector="x",
    )  # fmt: skip


CROPS = st.builds(
    lambda left, top, w, h, times, flip: Crop((left, top, w, h), (h * times, w * times), flip),
    st.integers(0, 20), st.integers(0, 20), st.integers(4, 20), st.integers(4, 20),
    st.sampled_from([1, 2, 3]), st.booleans(),
)  # fmt: skip


@given(crop=CROPS, x=st.integers(0, 39), y=st.integers(0, 39))
@settings(max_examples=150, deadline=None)
def test_a_keypoint_moves_with_its_pixel(crop, x, y):
    """The keypoint is at the center of a white pixel that is cropped, enlarged and flipped."""
    levels = np.zeros((40, 40, 3), np.uint8)
    levels[y, x] = 255
    picture = Image.fromarray(levels)
    left, top, w, h = crop.box
    resized = picture.crop((left, top, left + w, top + h)).resize(crop.size[::-1], 0)
    cropped = np.asarray(resized)[..., 0]
    cropped = cropped[:, ::-1] if crop.flip else cropped
    moved = crop.keypoints(keypoints([(x, y)], (40, 40)))
    rows, columns = np.nonzero(cropped)
    assert len(moved) == (len(rows) > 0)
    if len(moved):
        assert moved.xy[0].tolist() == pytest.approx([columns.mean(), rows.mean()], abs=1e-4)
        assert moved.image_size == crop.size
        assert moved.size.item() == pytest.approx(8 * crop.size[0] / h)


@given(crop=CROPS, seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_visible_keypoints_are_in_the_grid_and_in_order(crop, seed):
    xy = np.random.default_rng(seed).uniform(-0.5, 39.5, (60, 2))
    moved = crop.keypoints(keypoints(xy, (40, 40)))
    grid = PatchGrid((1, 1), crop.size, crop.size)
    assert (grid.patch_of(moved.xy) == 0).all()
    left, top, w, h = crop.box
    inside = (xy[:, 0] >= left - 0.5) & (xy[:, 0] < left + w - 0.5)
    inside &= (xy[:, 1] >= top - 0.5) & (xy[:, 1] < top + h - 0.5)
    assert abs(len(moved) - inside.sum()) <= 1  # rounding at the border
    assert (moved.response.diff() < 0).all()


def blobs(seed=0, side=192):
    """Return an image of separated bright and dark Gaussian spots, away from the borders."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    levels = np.full((side, side), 128.0)
    for row in range(24, side - 16, 40):
        for column in range(24, side - 16, 40):
            cx, cy = column + rng.uniform(-5, 5), row + rng.uniform(-5, 5)
            sign = rng.choice([-1, 1])
            levels += sign * 90 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 3.5**2))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


def nearest(keypoints, others):
    """Return the distance of each keypoint to the nearest of `others`, pixels."""
    return torch.cdist(keypoints.xy, others.xy).amin(1)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((16, 32, 128, 128), (128, 128)),
        ((16, 16, 160, 160), (240, 240)),
        ((0, 0, 160, 120), (96, 96)),
    ],
)
def test_sift_of_a_crop_is_the_crop_of_sift(box, size, flip):
    picture = blobs()
    picture_keypoints, crop = detect(np.asarray(picture)[None])[0], Crop(box, size, flip)
    crop_keypoints = detect(np.asarray(crop.image(picture))[None])[0]

    def repeatability(crop):
        """Return the fraction of the spots that are detected within a third of a pixel."""
        moved, scale = (
            crop.keypoints(picture_keypoints),
            (size[0] * size[1] / box[2] / box[3]) ** 0.5,
        )
        limit, margin = torch.tensor(size[::-1]), 10 * scale
        spots = moved.size < 6.5 * scale  # excludes the spaces between spots, which are larger
        spots &= ((moved.xy > margin) & (moved.xy < limit - margin)).all(1)
        assert spots.sum() >= 4
        return (nearest(moved, crop_keypoints)[spots] < 1 / 3).float().mean()

    assert repeatability(crop) > 0.6
    # a shift by two pixels or a missing flip is detected
    assert repeatability(Crop((box[0] + 2, *box[1:]), size, flip)) < 0.3
    assert repeatability(Crop(box, size, not flip)) < 0.3


def test_angles_follow_flips_and_stretches():
    original = keypoints([(10, 10)], (40, 40), angle=30.0)
    assert Crop((0, 0, 40, 40), (40, 40), True).keypoints(original).angle.item() == 150
    stretched = Crop((0, 0, 40, 40), (80, 40)).keypoints(original)
    assert stretched.angle.item() == pytest.approx(
        np.degrees(np.arctan(2 * np.tan(np.radians(30))))
    )
    assert stretched.size.item() == pytest.approx(8 * 2**0.5)


def test_keypoints_below_the_minimum_size_are_dropped():
    original = keypoints([(10, 10)], (40, 40), size=4.0)
    assert len(Crop((0, 0, 40, 40), (20, 20)).keypoints(original)) == 1
    assert len(Crop((0, 0, 40, 40), (10, 10)).keypoints(original)) == 0


@given(height=st.integers(17, 300), width=st.integers(17, 300), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_random_crops_are_inside_the_picture(height, width, seed):
    crop = Crop.draw((height, width), (32, 32), generator(0, 0, seed))
    left, top, w, h = crop.box
    assert left >= 0 and top >= 0 and w > 0 and h > 0
    assert left + w <= width and top + h <= height
    assert crop.image(Image.new("RGB", (width, height))).size == (32, 32)


def test_random_crops_have_the_requested_scale_and_flips():
    crops = [Crop.draw((200, 200), (32, 32), generator(0, 0, i)) for i in range(400)]
    area = np.array([crop.box[2] * crop.box[3] for crop in crops]) / 200**2
    assert 0.19 < area.min() < 0.25 and area.max() > 0.9
    assert 150 < sum(crop.flip for crop in crops) < 250


def test_keypoints_of_another_picture_are_refused():
    with pytest.raises(ShapeError, match="keypoints: expected those of a picture that contains"):
        Crop((0, 0, 50, 40), (32, 32)).keypoints(keypoints([(1, 1)], (40, 40)))
