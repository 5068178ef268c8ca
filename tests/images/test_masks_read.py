"""One object in any encoding of its mask is one boolean mask; two readings are refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semattn.cli.parsing import read_region
from semattn.data.masked import open_masked
from semattn.errors import ImageError, ShapeError
from semattn.images import infer_mask_encoding, read_mask
from semattn.prompting import Mask
from semattn.prompting.regions import draw
from tests import mask_encodings as written
from tests.conftest import tiny

SEEDS = range(6)
LOSSY = {"JPEG", "JPEG in colour", "JPEG of a warm white", "PNG of a JPEG"}


def same(actual: np.ndarray, inside: np.ndarray, name: str) -> None:
    """Assert that two masks agree; those that JPEG changed may differ beside the edge."""
    assert actual.dtype == bool
    if name in LOSSY:
        actual, inside = (mask & ~written.rim(~inside) for mask in (actual, inside))
        actual = actual & ~written.rim(inside)
        assert (actual != inside).mean() < 0.004
        return
    np.testing.assert_array_equal(actual, inside)


@pytest.mark.parametrize("name", written.encodings)
def test_every_encoding_gives_the_same_mask(name, tmp_path):
    for seed in SEEDS:
        inside = written.shape(seed)
        file = written.encodings[name](inside, np.random.default_rng(seed), tmp_path)
        mask = read_mask(file, (inside.shape[1], inside.shape[0]))
        same(mask.inside, inside, name)
        assert mask.reading and "\n" not in mask.reading


@pytest.mark.parametrize("name", written.ambiguous)
def test_two_readings_are_refused_in_one_line(name, tmp_path):
    for seed in SEEDS:
        inside = written.shape(seed)
        file = written.ambiguous[name](inside, np.random.default_rng(seed), tmp_path)
        with pytest.raises(
            ImageError, match=f"^mask: expected .*, got .* in {file.name} — "
        ) as error:
            read_mask(file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", written.arrays)
def test_every_array_gives_the_same_mask_and_region(name):
    for seed in SEEDS:
        inside = written.shape(seed)
        array = written.arrays[name](inside)
        np.testing.assert_array_equal(read_mask(array).inside, inside)
        np.testing.assert_array_equal(draw(Mask(array), inside.shape), inside.astype(np.float32))


def test_shares_of_pixels_stay_shares():
    shares = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    np.testing.assert_array_equal(draw(Mask(torch.from_numpy(shares)), (20, 20)), shares)
    with pytest.raises(ValueError, match="divide by the maximum"):
        draw(Mask(shares * 9), (20, 20))
    np.testing.assert_allclose(draw(Mask(shares * 9 / 9), (20, 20)), shares, atol=1e-6)
    with pytest.raises(ShapeError, match="expected a mask of 20x21"):
        draw(Mask(shares), (20, 21))
    with pytest.raises(ShapeError, match="expected a mask of 20x21"):
        draw(Mask(shares > 0.5), (20, 21))


@pytest.mark.parametrize("levels", [[3, 7], [0, 1, 255], [10, 20, 30], [0, 100, 200]])
def test_the_advice_of_a_refusal_works(levels, tmp_path):
    numbers = np.random.default_rng(0).choice(levels, (20, 20)).astype(np.uint8)
    shown = ", ".join(map(str, levels))
    with pytest.raises(ImageError, match=rf"levels {shown} in mask — save the object as white"):
        read_mask(numbers)
    inside = np.isin(numbers, levels[1:2])
    Image.fromarray(inside * np.uint8(255)).save(tmp_path / "again.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "again.png").inside, inside)


def test_constant_masks_are_said():
    for empty in (np.zeros((9, 9), np.uint8), np.zeros((9, 9), bool), Image.new("RGBA", (9, 9))):
        assert not read_mask(empty).inside.any()
    for array in (np.full((9, 9), 255, np.uint8), np.ones((9, 9), int), np.ones((9, 9), bool)):
        assert read_mask(array).inside.all()
    assert "all object" in read_mask(np.full((9, 9), 255, np.uint8)).reading
    with pytest.raises(ImageError, match="only the level 7"):
        read_mask(np.full((9, 9), 7, np.uint8))
    with pytest.raises(ImageError, match="expected black and one colour, got the colour"):
        read_mask(Image.new("RGBA", (9, 9), (9, 8, 7, 255)))


def test_a_mask_of_another_size_is_refused(tmp_path):
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(
        ImageError, match="expected 9x6 pixels, the size of the image, got 8x6 in a.png"
    ):
        read_mask(tmp_path / "a.png", (9, 6))


def test_a_mask_is_turned_as_its_exif_data_says(tmp_path):
    inside = written.shape(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(inside * np.uint8(255)).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.png", exif=exif)
    mask = read_mask(tmp_path / "turned.png", (inside.shape[1], inside.shape[0]))
    np.testing.assert_array_equal(mask.inside, inside)


def test_a_grey_picture_with_a_palette_is_read_as_grey():
    numbers = np.resize(np.array([0, 60, 130, 255], np.uint8), (12, 12))
    mask = read_mask(Image.fromarray(numbers).convert("P"))
    np.testing.assert_array_equal(mask.inside, numbers >= 128)


def test_white_about_the_picture_is_said():
    inside = written.shape(2)
    mask = read_mask(~inside * np.uint8(255))
    np.testing.assert_array_equal(mask.inside, ~inside)
    assert "covers the image border" in mask.reading and not mask.is_plain
    assert read_mask(inside * np.uint8(255)).is_plain


# --- a data set decides together --------------------------------------------------------------


def test_other_masks_settle_two_readings():
    def levels(*numbers: int) -> np.ndarray:
        return np.resize(np.array(numbers, np.uint8), (12, 12))

    rims = infer_mask_encoding([levels(0, 3), levels(0, 5), levels(0, 1, 255)])
    assert (rims.scale, rims.void) == ("labels", True)
    mask = read_mask(levels(0, 1, 255), encoding=rims)
    np.testing.assert_array_equal(mask.inside, levels(0, 1, 255) == 1)
    assert not read_mask(levels(0, 255), encoding=rims).inside.any()
    with pytest.raises(ImageError, match="labels below 128, as the other masks hold"):
        read_mask(levels(0, 200), encoding=rims)

    greys = infer_mask_encoding([levels(0, 255), levels(0, 9, 60, 130, 255), levels(0, 128, 255)])
    assert (greys.scale, greys.void) == ("grey", False)
    mask = read_mask(levels(0, 1, 255), encoding=greys)
    np.testing.assert_array_equal(mask.inside, levels(0, 1, 255) == 255)
    with pytest.raises(ImageError, match="levels up to 255, as the other masks hold"):
        read_mask(levels(0, 1), encoding=greys)

    assert not infer_mask_encoding([levels(0, 255), levels(0, 1, 255)]).void
    plain_labels = infer_mask_encoding([levels(0, 3), levels(0, 1)])
    with pytest.raises(ImageError, match="labels below 128"):
        read_mask(levels(0, 255), encoding=plain_labels)
    assert infer_mask_encoding([]).scale == ""


def test_a_cut_out_that_fills_the_picture_is_all_object(tmp_path):
    rng = np.random.default_rng(0)
    cut = written.encodings["RGBA cut-out"](written.shape(3), rng, tmp_path)
    encoding = infer_mask_encoding([cut])
    assert encoding.alpha
    for alpha in (0, 255):
        pixels = np.dstack([written.photo(rng, (20, 20)), np.full((20, 20), alpha, np.uint8)])
        assert read_mask(pixels, encoding=encoding).inside.all() == (alpha == 255)


@pytest.fixture
def data(tmp_path):
    """A function that writes images with masks of one encoding: the data set and the objects."""

    def make(name: str, count: int = 3) -> tuple[str, list[np.ndarray]]:
        objects = [written.shape(seed) for seed in range(count)]
        for folder in ("images", "masks", "scratch"):
            (tmp_path / folder).mkdir()
        for seed, inside in enumerate(objects):
            rng = np.random.default_rng(seed)
            Image.fromarray(written.photo(rng, inside.shape)).save(
                tmp_path / "images" / f"{seed}.png"
            )
            file = written.encodings[name](inside, rng, tmp_path / "scratch")
            file.rename(tmp_path / "masks" / f"{seed}{file.suffix}")
        return f"masks:{tmp_path / 'images'},{tmp_path / 'masks'}", objects

    return make


@pytest.mark.parametrize("name", written.encodings)
def test_bench_reads_every_encoding(name, data):
    spec, objects = data(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        items = open_masked(spec)
    for index, inside in enumerate(objects):
        same(items[index].mask, inside, name)
    assert items.about["mask_reading"]
    plain = {"white on black", "BMP", "TIFF", "GIF", "one bit", "RGB, white on black"}
    plain |= {
        "palette of black and white",
        "RGBA with alpha of 255",
        "32 bits",
        "16 bits of 0 and 65535",
    }
    plain |= {"16 bits of 0 and 255", "floats of 0 and 1", "floats of 0 and 255"}
    lines = [str(warning.message) for warning in caught]
    assert (not lines) == (name in plain), lines
    assert all(line.startswith("masks: ") and "of 3 sampled masks" in line for line in lines)


def test_an_empty_mask_is_said_once(data, tmp_path):
    spec, _ = data("white on black")
    for name in ("0.png", "1.png"):
        Image.new("L", (80, 60)).save(tmp_path / "masks" / name)
    items = open_masked(spec)
    with pytest.warns(UserWarning, match="the mask of 0.png is empty") as caught:
        assert not items[0].mask.any() and not items[1].mask.any()
    assert len(caught) == 1


def test_the_masks_of_a_folder_settle_two_readings_of_a_file(data, tmp_path):
    spec, objects = data("labels of one channel with a void rim")
    rims = (objects[1] * 1 + written.rim(objects[1]) * 255).astype(np.uint8)
    with pytest.raises(ImageError, match="levels 0, 1, 255"):
        read_mask(rims)
    Image.fromarray(rims).save(tmp_path / "masks" / "1.png")
    with pytest.warns(UserWarning, match="255 is a void.* .3 of 3 sampled"):
        items = open_masked(spec)
    np.testing.assert_array_equal(items[1].mask, objects[1])


def test_a_mask_of_two_readings_is_left_to_its_image(data, tmp_path):
    spec, objects = data("white on black")
    Image.fromarray((objects[0] * 4 + 3).astype(np.uint8)).save(tmp_path / "masks" / "0.png")
    items = open_masked(spec)
    with pytest.raises(ImageError, match="got levels 3, 7 in 0.png"):
        items[0]
    np.testing.assert_array_equal(items[1].mask, objects[1])


@pytest.mark.parametrize("name", written.encodings)
def test_a_region_file_of_every_encoding_leads_to_the_object(name, tmp_path):
    inside = written.shape(4, (64, 64))
    rng = np.random.default_rng(0)
    file = written.encodings[name](inside, rng, tmp_path)
    photo = tmp_path / "photo.bmp.png"
    Image.fromarray(written.photo(rng, inside.shape)).save(photo)
    network = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        region = read_region(str(file), photo, network).inside
    plain = tmp_path / "plain.png"
    Image.fromarray(inside * np.uint8(255)).save(plain)
    expected = read_region(str(plain), photo, network).inside
    if name in LOSSY:
        assert np.corrcoef(region.ravel(), expected.ravel())[0, 1] > 0.98
    else:
        np.testing.assert_array_equal(region, expected)


def test_what_was_assumed_of_a_region_file_is_said(tmp_path):
    inside = written.shape(4, (64, 64))
    rng = np.random.default_rng(0)
    photo = Path(written.encodings["RGB, white on black"](inside, rng, tmp_path))
    cut = written.encodings["RGBA cut-out"](inside, rng, tmp_path)
    with pytest.warns(UserWarning, match="region: of the mask cut-out.png, alpha 255 is the obj"):
        read_region(str(cut), photo, tiny())
