"""One picture in any depth is read as the same pixels; what was assumed is said."""

from __future__ import annotations

import dataclasses
import re
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import semattn
from semattn import SIFTPatchInterrelation
from semattn.errors import ImageError, ShapeError
from semattn.images import Preprocessing, prepare, read
from semattn.prompting import AttentionPrompter
from semattn.prompting.strength_sweep import strength_sweep
from semattn.spurious import discover_spurious
from tests import picture_encodings as written
from tests.conftest import PHOTO, tiny

SEEDS = range(4)


def pixels_and_notes(source) -> tuple[np.ndarray, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = np.asarray(read(source)).astype(int)
    return pixels, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", written.encodings)
def test_every_depth_of_grey_gives_the_same_pixels(name, tmp_path):
    for seed in SEEDS:
        levels = written.picture(seed)
        pixels, notes = pixels_and_notes(written.encodings[name](levels, tmp_path))
        assert np.abs(pixels - levels[..., None]).max() <= 1
        assert (pixels.min(), pixels.max()) == (0, 255)
        bits = re.match(r"(8|10|12|14) bits", name)
        assert len(notes) == (bits is not None), notes
        assert not bits or f"are read as {bits[1]} bits" in notes[0]


@pytest.mark.parametrize("name", written.colour_encodings)
def test_every_depth_of_colour_gives_the_same_pixels(name, tmp_path):
    for seed in SEEDS:
        levels = written.picture(seed, colour=True)
        pixels, notes = pixels_and_notes(written.colour_encodings[name](levels, tmp_path))
        assert np.abs(pixels - levels).max() <= 1
        assert len(notes) == bool(re.match(r"(8|10|12|14) bits", name)), notes


def test_colour_tiffs_of_12_bits(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    levels = written.picture(1, colour=True)
    for number, options in enumerate(({}, {"byteorder": ">"}, {"compression": "zlib"})):
        file = tmp_path / f"{number}.tiff"
        tifffile.imwrite(file, written.in_bits(levels, 12), photometric="rgb", **options)
        pixels, notes = pixels_and_notes(file)
        assert np.abs(pixels - levels).max() <= 1 and "read as 12 bits" in notes[0]


def test_a_file_that_says_its_bits_is_believed(tmp_path):
    dark = (written.picture(0) // 64).astype(np.uint16) * 900  # at most 2700
    for spare in (0, 4):
        data = written.png((dark >> spare) << spare, 16 - spare)
        pixels, notes = pixels_and_notes(written.written(data, tmp_path, f"{spare}.png"))
        assert np.abs(pixels[..., 0] - dark / 257).max() <= 1 and not notes
    full = tmp_path / "full.tiff"
    Image.fromarray(dark).save(full, tiffinfo={281: 65535})
    pixels, notes = pixels_and_notes(full)
    assert np.abs(pixels[..., 0] - dark / 257).max() <= 1 and not notes


def test_what_the_note_says_can_be_done():
    dark = (written.picture(0) // 64).astype(np.uint16) * 900
    pixels, (note,) = pixels_and_notes(dark)
    assert np.abs(pixels[..., 0] - dark / 4095 * 255).max() <= 1
    assert "read as 12 bits, with white at 4095. If white is another level, divide" in note
    pixels, notes = pixels_and_notes(dark / 65535)
    assert np.abs(pixels[..., 0] - dark / 257).max() <= 1 and not notes


def test_a_black_picture_needs_no_note():
    for dtype in (np.uint16, np.int64, np.uint8, bool, np.float32):
        pixels, notes = pixels_and_notes(np.zeros((20, 20), dtype))
        assert not pixels.any() and not notes


def test_booleans_are_black_and_white():
    inside = np.random.default_rng(0).random((20, 24)) > 0.5
    for source in (inside, inside[..., None], np.dstack([inside] * 3), Image.fromarray(inside)):
        pixels, notes = pixels_and_notes(source)
        np.testing.assert_array_equal(pixels, 255 * np.dstack([inside] * 3))
        assert not notes


HOUNSFIELD = np.random.default_rng(0).integers(-1024, 3072, (20, 24))
HOUNSFIELD[0, :2] = -1024, 3071


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32, np.float64])
def test_signed_levels_need_a_window_that_keeps_the_data(dtype):
    x = HOUNSFIELD.astype(dtype)
    with pytest.raises(ImageError, match=r"^image: expected .* in \[-1024, 3071\] — ") as error:
        read(x)
    advice = re.search(r"np\.clip\(.*?\), 0, 1\)", str(error.value))
    assert advice and "\n" not in str(error.value) and "uint8" not in str(error.value)
    window = eval(advice[0], {"np": np, "x": x, "low": -160, "high": 240})
    pixels, notes = pixels_and_notes(window)
    expected = np.clip((HOUNSFIELD + 160) / 400, 0, 1) * 255
    assert np.abs(pixels[..., 0] - expected).max() <= 1 and not notes


def test_a_window_of_extreme_levels_does_not_wrap():
    x = np.full((20, 20), 32767, np.int16)
    x[0] = -32768
    with pytest.raises(ImageError) as error:
        read(x)
    advice = re.search(r"np\.clip\(.*?\), 0, 1\)", str(error.value))
    array = eval(advice[0], {"np": np, "x": x, "low": -32768, "high": 32767})
    assert array[0, 0] == 0 and array[1, 0] == 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_signed_files_need_a_window(mode, tmp_path):
    dtype = {"I": np.int32, "F": np.float32}[mode]
    Image.fromarray(HOUNSFIELD.astype(dtype)).save(tmp_path / "ct.tiff")
    for source in (tmp_path / "ct.tiff", Image.fromarray(HOUNSFIELD.astype(dtype))):
        with pytest.raises(ImageError, match=r"choose a display window"):
            read(source)
    with pytest.raises(ImageError, match=r"of uint32 in \[0, 70000\] — choose a display window"):
        read(np.full((20, 20), 70000, np.uint32) * np.eye(20, dtype=np.uint32))


def test_levels_of_0_and_1_have_two_readings():
    x = np.eye(20, dtype=np.int64)
    with pytest.raises(ImageError, match=r"with only 0 and 1 — pass x.astype\(bool\)"):
        read(x)
    np.testing.assert_array_equal(np.asarray(read(x.astype(bool)))[..., 0], 255 * x)


def test_other_types_are_refused():
    for x in (np.zeros((20, 20), complex), np.full((20, 20), "a")):
        with pytest.raises(ImageError, match="expected numbers, got an array of"):
            read(x)


def test_an_explanation_says_what_was_assumed():
    deep = written.in_bits(written.picture(0, (64, 64)), 12)
    with pytest.warns(UserWarning, match="read as 12 bits") as caught:
        explanation = SIFTPatchInterrelation().explain(tiny(), deep)
    assert str(caught[0].message) in explanation.notes
    eight = SIFTPatchInterrelation().explain(tiny(), written.picture(0, (64, 64)))
    assert np.abs(explanation.images.pixels.astype(int) - eight.images.pixels).max() <= 1
    assert not any("bits" in note for note in eight.notes)


# --- long pictures ----------------------------------------------------------------------------


def long(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(400, 100), (100, 400), (200, 100), (178, 100)])
def test_a_panorama_is_said_to_be_cropped(size):
    explanation = SIFTPatchInterrelation().explain(tiny(), long(*size))
    share = round(100 * min(size) / max(size))
    (note,) = [note for note in explanation.notes if "The model sees the middle" in note]
    assert f"middle {share} % of image 0 ({size[0]} x {size[1]} pixels): crop it" in note


@pytest.mark.parametrize("size", [(100, 100), (133, 100), (100, 150), (160, 100)])
def test_usual_photographs_are_not(size):
    assert not prepare(long(*size), Preprocessing.of(tiny())).notes


def test_what_the_note_on_a_panorama_says_can_be_done():
    model, picture = tiny(), long(400, 100)
    (note,) = prepare(picture, Preprocessing.of(model)).notes
    advice = re.search(r"dataclasses\.replace\(.*?crop_mode='squash'\)", note)
    squashed = eval(
        advice[0], {"dataclasses": dataclasses, "Preprocessing": Preprocessing, "model": model}
    )
    border = dataclasses.replace(squashed, crop_mode="border")
    for wants in (squashed, border):
        explanation = SIFTPatchInterrelation(preprocessing=wants).explain(model, picture)
        assert not any("The model sees" in note for note in explanation.notes)
    cropped = SIFTPatchInterrelation().explain(model, picture.crop((0, 0, 100, 100)))
    assert not any("The model sees" in note for note in cropped.notes)


def test_comparison_analysis_and_prompt_say_it_too():
    model, picture = tiny(), long(400, 100)
    compared = semattn.compare(model, picture, ["raw-attention", "sift-patch-interrelation"])
    assert sum("middle 25 %" in note for note in compared.notes) == 1
    with pytest.warns(UserWarning, match="middle 25 %"):
        semattn.analyze(model, picture)
    prompted = strength_sweep(
        SIFTPatchInterrelation(), AttentionPrompter(model, density="count"), picture
    )
    assert any("middle 25 %" in note for note in prompted.explanation.notes)


# --- models of one channel --------------------------------------------------------------------


@pytest.fixture(scope="module")
def grey_model():
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=64, in_chans=1, num_classes=5).eval()


def test_a_grey_model_explains_colour_pictures(grey_model):
    explanation = SIFTPatchInterrelation().explain(grey_model, PHOTO)
    assert (
        explanation.images.inputs.shape == (1, 1, 64, 64) and explanation.heat_map.isfinite().all()
    )
    grey = Image.open(PHOTO).convert("L")
    again = SIFTPatchInterrelation().explain(grey_model, grey)
    apart = explanation.images.pixels.astype(int) - again.images.pixels
    assert np.abs(apart).mean() < 0.5  # grey before the picture is resized, or after
    stacked = torch.stack([explanation.heat_map.flatten(), again.heat_map.flatten()])
    assert float(torch.corrcoef(stacked)[0, 1]) > 0.99
    heat_map = SIFTPatchInterrelation().attribute(grey_model, PHOTO)
    assert heat_map.shape == (1, 1, 64, 64)
    torch.testing.assert_close(heat_map.sum(1), explanation.heat_map)


def test_all_parts_take_a_grey_model(grey_model):
    compared = semattn.compare(grey_model, PHOTO, ["raw-attention", "sift-patch-interrelation"])
    assert not any(row.refusal for row in compared.rows)
    assert np.isfinite(semattn.analyze(grey_model, PHOTO).mean("lift")).any()
    prompter = AttentionPrompter(grey_model, density="count")
    prompted = strength_sweep(SIFTPatchInterrelation(), prompter, PHOTO)
    assert len(prompted.strengths) > 1
    rng = np.random.default_rng(0)
    images = [
        ((rng.integers(0, 255, (70, 70, 3)) * (1 + label) // 2).astype(np.uint8), label)
        for label in (0, 1)
        for _ in range(6)
    ]
    discovery = discover_spurious(grey_model, images, batch_size=4)
    assert discovery.images == 12


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_tensors_to_a_grey_model_are_refused_in_one_line(grey_model, channels):
    inputs = torch.rand(1, channels, 64, 64)
    nameless = timm.create_model("test_vit", img_size=64, in_chans=1, num_classes=5).eval()
    nameless.pretrained_cfg = nameless.default_cfg = None
    for model in (grey_model, nameless):
        prompter = AttentionPrompter(model, density="count")
        for call in (
            lambda model=model: SIFTPatchInterrelation().attribute(model, inputs),
            lambda model=model: SIFTPatchInterrelation(model).attribute(inputs, target=1),
            lambda model=model: semattn.compare(model, inputs, ["raw-attention"]),
            lambda model=model: semattn.analyze(model, inputs),
            lambda prompter=prompter: prompter(inputs),
        ):
            with pytest.raises(ShapeError, match=f"inputs: expected .*, got .*{channels}") as error:
                call()
            assert "\n" not in str(error.value)
        if channels == 3:
            grey = inputs.mean(dim=1, keepdim=True)  # as the error says
            assert SIFTPatchInterrelation().attribute(model, grey).isfinite().all()


def test_grey_tensors_to_a_colour_model_are_refused_in_one_line():
    inputs = torch.rand(1, 1, 64, 64)
    nameless = tiny()
    nameless.pretrained_cfg = nameless.default_cfg = None
    for model in (tiny(), nameless):
        with pytest.raises(ShapeError, match="inputs: expected .* — ") as error:
            SIFTPatchInterrelation().attribute(model, inputs)
        assert "\n" not in str(error.value)
