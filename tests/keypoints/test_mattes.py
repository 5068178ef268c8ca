"""Opacity and colour of marks, estimated from pictures with the mark at known places."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from semattn.keypoints.matching import apply, invert
from semattn.keypoints.mattes import MIN_PICTURES, estimate_matte
from semattn.keypoints.regions import inpaint, outline_mask
from tests.keypoints.drawn_marks import corners, emblem, paste, picture, placed, tag


def letters(opacity: float = 0.5) -> Image.Image:
    """Return half-transparent white letters."""
    layer = Image.new("RGBA", (256, 136), (255, 255, 255, 0))
    white = (255, 255, 255, round(255 * opacity))
    ImageDraw.Draw(layer).text((20, 16), "MARK", fill=white, font_size=84, stroke_width=2)
    return layer.reduce(4)


def pictures_with(mark: Image.Image, count: int, seed: int = 0):
    """Return pictures with a mark, its transforms, and its outline."""
    rng = np.random.default_rng(seed)
    transforms = [
        placed(mark, tuple(rng.uniform((50, 45), (150, 105))), rng.uniform(0.8, 1.2),
               rng.uniform(-15, 15))
        for _ in range(count)
    ]  # fmt: skip
    marked = [
        paste(picture(number), mark, transform) for number, transform in enumerate(transforms)
    ]
    return marked, transforms, corners(mark, np.eye(2, 3))


MARKS = {"letters": letters, "faint letters": lambda: letters(0.3), "tag": tag, "emblem": emblem}


@pytest.mark.parametrize("name", MARKS)
def test_the_drawn_mark_is_the_true_one(name):
    mark = MARKS[name]()
    matte = estimate_matte(*pictures_with(mark, 25))
    assert matte is not None and matte.opacity.dtype == matte.colour.dtype == np.float32
    for seed in range(3):
        plain = picture(700 + seed)
        transform = placed(mark, (95, 70), 1.1, 8.0 * seed)
        true, drawn = paste(plain, mark, transform).astype(float), matte.draw(plain, transform)
        changed = np.abs(true - plain).max(axis=-1) > 5
        without = np.abs(true - plain)[changed].mean()
        assert np.abs(drawn - true)[changed].mean() < 0.3 * without
        beyond = ~outline_mask([corners(mark, transform)], plain.shape[:2])
        beyond &= ~outline_mask([apply(transform, corners(mark, np.eye(2, 3)) * 1.15 - 5)],
                                plain.shape[:2])  # fmt: skip
        assert (drawn == plain)[beyond].mean() > 0.995


@pytest.mark.parametrize("opacity", [0.5, 0.7, 0.9])
def test_the_opacity_of_thick_strokes_is_the_true_one(opacity):
    layer = Image.new("RGBA", (64, 34), (255, 255, 255, 0))
    ImageDraw.Draw(layer).rectangle((12, 8, 51, 25), fill=(250, 200, 30, round(255 * opacity)))
    matte = estimate_matte(*pictures_with(layer, 40))
    assert matte is not None
    middle = matte.opacity > 0
    assert float(np.median(matte.opacity[middle])) == pytest.approx(opacity, abs=0.1)
    colour = np.median(matte.colour[middle], axis=0) / np.median(matte.opacity[middle])
    np.testing.assert_allclose(colour, (250, 200, 30), atol=35)


def test_nothing_between_the_strokes_is_drawn():
    mark = letters()
    matte = estimate_matte(*pictures_with(mark, 25))
    assert matte is not None
    opacity = np.asarray(mark)[..., 3] / 255
    plain = picture(710)
    transform = placed(mark, (100, 75), 1.0)
    top, left = (transform[::-1, 2]).round().astype(int)
    region = np.s_[top : top + mark.height, left : left + mark.width]
    between = opacity == 0
    drawn = matte.draw(plain, transform)
    changed = np.abs(drawn.astype(float) - plain).max(axis=-1)[region]
    assert changed[between].mean() < 0.15 * changed[opacity > 0.4].mean()


def test_too_few_pictures_or_no_mark_have_no_matte():
    pictures, transforms, outline = pictures_with(tag(), MIN_PICTURES)
    assert estimate_matte(pictures, transforms, outline) is not None
    assert estimate_matte(pictures[1:], transforms[1:], outline) is None
    flat = [np.full((150, 200, 3), 90, np.uint8)] * 8
    assert estimate_matte(flat, transforms[:1] * 8, outline) is None


def test_a_mark_beyond_the_picture_is_cut():
    mark = tag()
    matte = estimate_matte(*pictures_with(mark, 12))
    assert matte is not None
    plain = picture(720)
    drawn = matte.draw(plain, placed(mark, (0, 0)))
    assert drawn.shape == plain.shape and (drawn != plain).any()
    assert (matte.draw(plain, placed(mark, (900, 900))) == plain).all()


@pytest.mark.parametrize("name", MARKS)
def test_the_mask_has_the_strokes_alone(name):
    mark = MARKS[name]()
    matte = estimate_matte(*pictures_with(mark, 25))
    assert matte is not None
    transform = placed(mark, (90, 80), 1.1, -7)
    black = paste(np.zeros((150, 200, 3), np.uint8), mark, transform).max(axis=-1) > 12
    white = paste(np.full((150, 200, 3), 255, np.uint8), mark, transform).min(axis=-1) < 243
    true, mask = black | white, matte.mask(transform, (150, 200))
    assert mask.shape == true.shape and mask[true].mean() > 0.9
    assert (mask & ~true).sum() < 0.6 * true.sum()
    outline = outline_mask([corners(mark, transform)], (150, 200))
    assert (mask & ~outline).sum() < 0.05 * outline.sum()


def test_inpainting_the_mask_keeps_the_gaps_between_strokes():
    mark = letters()
    pictures, transforms, outline = pictures_with(mark, 25)
    matte = estimate_matte(pictures, transforms, outline)
    assert matte is not None
    errors = []
    for number, (marked, transform) in enumerate(zip(pictures, transforms, strict=True)):
        region = outline_mask([apply(transform, outline)], marked.shape[:2])
        masks = (matte.mask(transform, marked.shape[:2]), region)
        erased = [inpaint(marked, mask) for mask in masks]
        plain = picture(number).astype(float)
        errors.append([np.abs(pixels - plain)[region].mean() for pixels in (*erased, marked)])
    of_strokes, of_region, marked_error = np.mean(errors, axis=0)
    assert of_strokes < 0.7 * of_region and of_strokes < 0.8 * marked_error


def test_a_mark_of_the_colour_of_its_backgrounds_is_seen_by_its_spread():
    """Also in few pictures, whose standard deviations are uncertain."""
    layer = Image.new("RGBA", (64, 34), (0, 0, 0, 0))
    ImageDraw.Draw(layer).rectangle((12, 6, 51, 27), fill=(128, 128, 128, 210))
    for count in (6, 24):
        matte = estimate_matte(*pictures_with(layer, count))
        assert matte is not None
        transform = placed(layer, (100, 75))
        mask = matte.mask(transform, (150, 200))
        true = paste(np.zeros((150, 200, 3), np.uint8), layer, transform).max(axis=-1) > 50
        assert mask[true].mean() > 0.85 and (mask & ~true).sum() < 0.25 * true.sum()


def test_edges_inside_an_opaque_mark_are_opaque():
    mark = tag()
    matte = estimate_matte(*pictures_with(mark, 25))
    assert matte is not None
    x, y = mark.width - 7, mark.height - 7
    inner = np.array([[6.0, 6], [x, 6], [x, y], [6, y]])
    inside = outline_mask([apply(invert(matte.to_frame), inner)], matte.opacity.shape)
    assert (matte.opacity[inside] > 0.75).mean() > 0.95


def test_what_is_beyond_the_outline_is_no_part_of_the_mark():
    mark = letters(0.9)
    pictures, transforms, outline = pictures_with(mark, 25)
    left = outline * [0.5, 1]
    matte = estimate_matte(pictures, transforms, left)
    assert matte is not None
    x = (np.arange(matte.opacity.shape[1]) * matte.to_frame[0, 0] + matte.to_frame[0, 2]).round()
    assert matte.opacity[:, x < left[:, 0].max()].max() > 0.6
    assert matte.opacity[:, x > left[:, 0].max() + 5].max() == 0
