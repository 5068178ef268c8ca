"""Every way in for a picture, every way that a picture can be wrong."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import warnings
import zlib
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from semattn.errors import ImageError, ShapeError, UnsupportedModelError
from semattn.images import Preprocessing, luma, pixels_of, prepare, processors, read
from semattn.images.bit_depth import _with_swapped_order, deep_colours

HALF = Preprocessing(size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
IMAGENET = Preprocessing(
    size=(32, 48), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.9
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(smooth(40, 60)).save(path)
    return path


def saved(image, path, **options):
    image.save(path, **options)
    return path


# --- the same picture in every wrapping -------------------------------------------------------


def test_path_bytes_pil_and_array_are_the_same_picture(photo):
    array = np.asarray(Image.open(photo))
    for source in (photo, str(photo), photo.read_bytes(), Image.open(photo), array):
        assert np.array_equal(read(source), array)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    alone = prepare(photo, IMAGENET)
    for source in (str(photo), array, tensor, Image.open(photo)):
        assert torch.equal(prepare(source, IMAGENET).inputs, alone.inputs)
    for batch in ([photo, array], np.stack([array] * 2), torch.stack([tensor] * 2)):
        prepared = prepare(batch, IMAGENET)
        assert prepared.batched
        assert torch.equal(prepared.inputs, alone.inputs.repeat(2, 1, 1, 1))
        assert np.array_equal(prepared.pixels, alone.pixels.repeat(2, 0))


def test_names_and_batch_axis(photo):
    assert prepare(photo, HALF).names == ("photo.png",)
    assert not prepare(photo, HALF).batched
    prepared = prepare([str(photo), Image.open(photo)], HALF)
    assert prepared.names == ("photo.png", "image 1")
    assert prepare([photo], HALF).batched


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turn_is_applied(tmp_path, orientation):
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :10] = (255, 0, 0)
    upright[10:, 20:] = (0, 0, 255)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transposes that EXIF asks to undo
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(stored, tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read(path), upright)


def test_alpha_is_laid_on_white():
    red = np.full((16, 16, 4), (200, 0, 0, 255), np.uint8)
    red[:, 8:, 3] = 0
    red[:, :4, 3] = 51  # a fifth
    pixels = np.asarray(read(Image.fromarray(red)))
    assert pixels[0, 6].tolist() == [200, 0, 0]
    assert pixels[0, 12].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [244, 204, 204]  # .2 of (200,0,0), .8 of white
    assert np.array_equal(read(red), pixels)


def test_alpha_of_palette_grey_and_colour_key(tmp_path):
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255] + [0] * 762)
    palette.paste(0, (0, 0, 8, 16))
    path = saved(palette, tmp_path / "p.png", transparency=0)
    assert np.asarray(read(path))[0, [0, 12]].tolist() == [[255, 255, 255], [0, 0, 255]]
    path = saved(palette, tmp_path / "bytes.png", transparency=bytes([0, 255]))
    assert np.asarray(read(path))[0, [0, 12]].tolist() == [[255, 255, 255], [0, 0, 255]]
    grey = Image.merge("LA", [Image.new("L", (16, 16), 10), Image.new("L", (16, 16), 0)])
    assert np.asarray(read(grey)).min() == 255
    key = saved(Image.new("RGB", (16, 16), (1, 2, 3)), tmp_path / "k.png", transparency=(1, 2, 3))
    assert np.asarray(read(key)).min() == 255


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_modes_become_rgb(mode):
    picture = Image.new("RGB", (16, 16), (255, 255, 255)).convert(mode)
    image = read(picture)
    assert image.mode == "RGB"
    assert np.asarray(image).min() >= 253


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bits_are_scaled_not_clipped(tmp_path, suffix):
    levels = np.zeros((16, 16), np.uint16)
    levels[0, :4] = (257, 32768, 65535, 300)
    path = saved(Image.fromarray(levels), tmp_path / f"deep.{suffix}")
    expected = [1, 128, 255, 1]  # 32768/257 = 127.502
    for source in (path, levels, levels.astype(">u2"), levels[..., None]):
        assert np.asarray(read(source))[0, :4, 1].tolist() == expected
    wide = Image.fromarray(levels.astype(np.int32))
    assert wide.mode == "I"
    assert np.asarray(read(wide))[0, :4, 1].tolist() == expected


def test_16_bit_colour_and_levels_out_of_range():
    deep = np.zeros((16, 16, 3), np.uint16)
    deep[..., 2] = 65535
    assert read(deep).getpixel((0, 0)) == (0, 0, 255)
    with pytest.raises(ImageError, match=r"int32 in \[0, 70000\]"):
        read(Image.fromarray(np.full((16, 16), 70000, np.int32) * np.eye(16, dtype=np.int32)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_in_0_1(dtype):
    array = np.zeros((16, 16, 3), dtype)
    array[..., 0] = 1
    array[..., 1] = 0.5
    assert read(array).getpixel((0, 0)) == (255, 128, 0)
    assert read(Image.fromarray(array[..., 1].astype(np.float32))).getpixel((0, 0)) == (128,) * 3


@pytest.mark.parametrize(("least", "greatest"), [(0, 255), (-2.1, 2.6), (-0.01, 1), (0, 1.01)])
def test_float_arrays_elsewhere_are_refused(least, greatest):
    array = np.linspace(least, greatest, 16 * 16 * 3).reshape(16, 16, 3)
    advice = "choose a display window" if least < 0 else "divide by 255"
    with pytest.raises(ImageError, match=rf"expected floats in \[0, 1\], got an array .*{advice}"):
        read(array)


# --- what is refused --------------------------------------------------------------------------


def refused(source, **options):
    with pytest.raises(ImageError) as caught:
        read(source, **options)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("image: expected ")
    assert " — " in line
    return line


def test_files_that_are_no_pictures(tmp_path, photo):
    assert "does not exist" in refused(tmp_path / "nothing.png")
    assert "the folder" in refused(tmp_path)
    (tmp_path / "empty.png").write_bytes(b"")
    assert "empty" in refused(tmp_path / "empty.png")
    assert "empty" in refused(b"")
    (tmp_path / "text.png").write_text("not a picture")
    assert "whose format is unknown" in refused(tmp_path / "text.png")
    assert "'" in refused(str(tmp_path / "text.png"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_truncated_files(tmp_path, suffix, share):
    path = saved(Image.fromarray(noise(64, 64, 3)), tmp_path / f"cut.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cut." in refused(path)


def huge_png(width, height):
    """A PNG that claims a size and holds nothing: it can be refused, not decoded."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8001, 10_000, 12_000, 50_000])
@pytest.mark.parametrize("action", ["error", "always"])
def test_huge_pictures_are_refused_from_their_header(tmp_path, side, action):
    path = tmp_path / "huge.png"
    path.write_bytes(huge_png(side, side))
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter(action)
        line = refused(path)
        assert "64,000,000 pixels" in line
        refused(path.read_bytes())
    assert all(warning.category is Image.DecompressionBombWarning for warning in leaked)
    assert not leaked or (action == "always" and side in (10_000, 12_000))
    assert Image.MAX_IMAGE_PIXELS == 89_478_485


def test_the_limit_is_the_callers(photo):
    assert "at most 2,000 pixels, got" in refused(photo, max_pixels=2000)
    assert "60x40" in refused(photo, max_pixels=2399)
    assert read(photo, max_pixels=2400).size == (60, 40)


def test_tiny_pictures(tmp_path):
    assert "at least 16 pixels per side" in refused(np.zeros((1, 1, 3), np.uint8))
    assert "of 100x15" in refused(Image.new("RGB", (100, 15)))
    assert "dot.png" in refused(saved(Image.new("L", (1, 1)), tmp_path / "dot.png"))
    assert read(Image.new("RGB", (16, 16))).size == (16, 16)


def test_nan_and_shapes_of_arrays():
    broken = np.zeros((16, 16, 3))
    broken[3, 3, 1] = np.nan
    assert "NaN or inf" in refused(broken)
    for shape, fix in (
        ((16, 16, 2), "give one picture"),
        ((3, 16, 17), "channels last"),
        ((0, 16, 3), "give one"),
        ((16,), "give one"),
        ((1, 1, 16, 16, 3), "give one"),
    ):
        with pytest.raises(ShapeError, match=fix):
            read(np.zeros(shape, np.uint8))
    with pytest.raises(TypeError, match="got NoneType"):
        read(None)


def test_lists_and_tensors_that_are_no_pictures():
    for empty in ([], (), np.zeros((0, 16, 16, 3), np.uint8), torch.zeros(0, 3, 4, 4).byte()):
        with pytest.raises(ShapeError, match="empty batch"):
            prepare(empty, HALF)
    with pytest.raises(ImageError, match=r"torch\.stack"):
        prepare([torch.zeros(3, 16, 16)], HALF)
    with pytest.raises(ShapeError, match="channels first"):
        prepare(torch.zeros(16, 16, 3, dtype=torch.uint8), HALF)
    with pytest.raises(ValueError, match="expected a Preprocessing for pictures, got None"):
        prepare(smooth(16, 16))


# --- preprocessing ----------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.9, 0.875])
@pytest.mark.parametrize("size", [(32, 32), (30, 45), (45, 28)])
def test_preprocessing_is_timms(interpolation, crop_mode, crop_pct, size):
    config = {
        "input_size": (3, *size),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "interpolation": interpolation,
        "crop_mode": crop_mode,
        "crop_pct": crop_pct,
    }
    reference = create_transform(**resolve_data_config(pretrained_cfg=config), is_training=False)
    if reference.transforms[0].interpolation.value != interpolation:
        pytest.skip("this timm resizes bilinearly here, whatever is asked for")
    ours = Preprocessing.of(SimpleNamespace(pretrained_cfg=config))
    for sides in ((64, 64), (50, 77), (83, 41), (32, 32), (17, 90), (20, 21)):
        picture = Image.fromarray(noise(*sides, 3))
        prepared = prepare(picture, ours)
        torch.testing.assert_close(prepared.inputs[0], reference(picture), rtol=0, atol=1e-6)
        assert prepared.inputs.dtype == torch.float32
        assert prepared.inputs.is_contiguous()
        assert prepared.pixels.shape == (1, *size, 3)
        assert prepared.pixels.dtype == np.uint8
        undone = (ours.restore(prepared.inputs[0]) * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(undone, prepared.pixels[0])


@pytest.fixture(scope="module")
def small():
    return timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=1, num_classes=2)


def test_the_models_own_size_wins_over_its_config(small):
    wants = Preprocessing.of(small)
    assert small.pretrained_cfg["input_size"] == (3, 224, 224)
    assert wants == Preprocessing(
        size=(64, 96), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9, crop_mode="center"
    )
    assert Preprocessing.of(nn.Sequential(nn.Identity(), small)) == wants
    assert small(prepare(smooth(70, 80), wants).inputs).shape == (1, 2)


def test_a_silent_config_means_timms_defaults():
    wants = Preprocessing.of(SimpleNamespace(default_cfg=SimpleNamespace(input_size=(3, 20, 30))))
    assert wants.size == (20, 30)
    assert (wants.crop_pct, wants.interpolation, wants.mean[0]) == (0.875, "bicubic", 0.485)
    inner = SimpleNamespace(img_size=48)
    wants = Preprocessing.of(SimpleNamespace(pretrained_cfg={"x": 1}, patch_embed=inner))
    assert wants.size == (48, 48)


def test_a_model_of_one_channel_sees_grey():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, in_chans=1)
    wants = Preprocessing.of(model)
    assert (wants.mean, wants.std) == ((0.5,), (0.5,))
    prepared = prepare(np.full((40, 40, 3), (255, 0, 0), np.uint8), lambda: Preprocessing.of(model))
    assert prepared.inputs.shape == (1, 1, 32, 32)
    assert prepared.pixels[0, 0, 0].tolist() == [76, 76, 76]  # .299 of 255
    assert prepared.inputs[0, 0, 0, 0].item() == pytest.approx(76 / 255 * 2 - 1)
    assert model(prepared.inputs).isfinite().all()
    with pytest.raises(UnsupportedModelError, match="channels, got 5"):
        Preprocessing.of(timm.create_model("vit_tiny_patch16_224", depth=1, in_chans=5))


def test_a_model_that_says_nothing_is_refused_by_name():
    with pytest.raises(UnsupportedModelError, match=r"got Linear without one — pass a tensor"):
        Preprocessing.of(nn.Linear(2, 2))
    with pytest.raises(UnsupportedModelError, match="preprocessing: expected"):
        prepare(smooth(20, 20), lambda: Preprocessing.of(nn.Linear(2, 2)))


def test_unknown_ways_are_refused_by_name():
    with pytest.raises(ValueError, match="crop_mode: unknown name 'centre'.*did you mean 'center'"):
        Preprocessing((8, 8), (0.5,), (0.5,), crop_mode="centre")
    with pytest.raises(ValueError, match="interpolation: unknown name 'random'"):
        Preprocessing((8, 8), (0.5,), (0.5,), interpolation="random")
    with pytest.raises(ValueError, match="crop_rounding: unknown name 'up'"):
        Preprocessing((8, 8), (0.5,), (0.5,), crop_rounding="up")
    with pytest.raises(ShapeError, match="got 3 and 1"):
        Preprocessing((8, 8), (0.5,) * 3, (0.5,))
    for bad in ({"size": (0, 8)}, {"std": (0.0,)}, {"crop_pct": 0.0}):
        with pytest.raises(ValueError, match="expected a positive size"):
            Preprocessing(**{"size": (8, 8), "mean": (0.5,), "std": (0.5,)} | bad)


# --- what other libraries say of their preprocessing ------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    flower = read(Path(__file__).parents[2] / "examples" / "flower.jpg")
    tall = flower.rotate(90, expand=True).crop((3, 5, 400, 600))
    return flower, tall


def levels_apart(wants, call, pictures):
    """The most and the mean by which two results differ, in levels of 255."""
    apart = []
    for picture in pictures:
        ours, reference = prepare(picture, wants).inputs[0], torch.as_tensor(call(picture)).float()
        assert ours.shape == reference.shape
        apart.append((reference - ours).abs() * torch.tensor(wants.std)[:, None, None] * 255)
    return max(float(x.max()) for x in apart), max(float(x.mean()) for x in apart)


SHORTEST = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
PROCESSORS = {
    "vit": ("ViTImageProcessor", {}),
    "rectangle": ("ViTImageProcessor", {"size": {"height": 96, "width": 160}}),
    "enlarged": ("ViTImageProcessor", {"size": {"height": 500, "width": 700}}),
    "lanczos": ("SegformerImageProcessor", {"resample": 1}),
    "levels to 255": (
        "ViTImageProcessor",
        {"do_rescale": False, "image_mean": [127.0, 120.0, 110.0], "image_std": [64.0, 60.0, 50.0]},
    ),
    "levels from -1": (
        "ViTImageProcessor",
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
    ),
    "no normalisation": ("ViTImageProcessor", {"do_normalize": False}),
    "clip": ("CLIPImageProcessor", {}),
    "dinov2": ("BitImageProcessor", SHORTEST),
    "uneven crop": ("CLIPImageProcessor", {**SHORTEST, "size": {"shortest_edge": 235}}),
    "padded": ("CLIPImageProcessor", {"size": 100, "crop_size": 128}),
    "deit": ("DeiTImageProcessor", {}),
    "siglip": ("SiglipImageProcessor", {}),
    "dinov3": ("DINOv3ViTImageProcessor", {}),
}


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_preprocessing_is_that_of_a_transformers_processor(name, backend, pictures):
    import transformers

    kind, options = PROCESSORS[name]
    make = getattr(transformers, kind + backend, None)
    if make is None:
        pytest.skip(f"no {kind}{backend}")
    processor = make(**options)
    most, mean = levels_apart(
        Preprocessing.of(processor),
        lambda picture: processor(images=picture, return_tensors="pt")["pixel_values"][0],
        pictures,
    )
    # PIL itself gives the same; torch rounds otherwise, and clips otherwise where it overshoots.
    assert mean < (0.35 if backend == "" else 1e-3)
    assert most <= (12 if backend == "" else 0.01)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("LevitImageProcessor", {}, "its result differs by"),
        ("MobileViTImageProcessor", {}, "its result differs by"),  # blue first
        ("PerceiverImageProcessor", {}, "it makes .3, 224, 224., not"),
        ("ViTImageProcessor", {"do_resize": False}, "it does not resize"),
        ("CLIPImageProcessor", {"do_center_crop": False}, "not the same for every picture"),
        ("CLIPImageProcessor", {"crop_size": {"height": 64, "width": 96}}, "whose shortest side"),
        ("DeiTImageProcessor", {"crop_size": {"height": 64, "width": 96}}, "out of .256, 256."),
    ],
)
def test_processors_that_do_more_are_refused_by_name(kind, options, words):
    import transformers

    with pytest.raises(UnsupportedModelError, match=f"got {kind}: .*{words}") as raised:
        Preprocessing.of(getattr(transformers, kind)(**options))
    assert "\n" not in str(raised.value)


def test_a_processor_that_fails_is_refused():
    class Broken:
        do_resize, resample, size = True, 2, {"height": 32, "width": 32}
        do_normalize, do_rescale, rescale_factor = False, True, 1 / 255

        def __call__(self, **_):
            raise RuntimeError("no\nbackend")

    with pytest.raises(UnsupportedModelError, match="Broken: it fails on a picture .no backend."):
        Preprocessing.of(Broken())


def test_a_transformers_model_alone_asks_for_its_processor():
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    model = ViTForImageClassification(config)
    for origin, load in {
        "": "semattn.load('./folder') or semattn.load('hf:owner/name')",
        "owner/name": "semattn.load('hf:owner/name')",  # of the hub, which is not contacted
    }.items():
        model.config._name_or_path = model.name_or_path = origin
        argument = "GradCAM(preprocessing=semattn.Preprocessing.of(processor))"
        message = re.escape(f"— write {argument}, or load both with {load}") + "$"
        with pytest.raises(UnsupportedModelError, match=message):
            Preprocessing.of(model, needed_by="GradCAM")
    assert prepare(torch.rand(1, 3, 32, 32), lambda: Preprocessing.of(model)).pixels.shape[0] == 1
    processor = ViTImageProcessor()
    assert Preprocessing.of(SimpleNamespace(image_processor=processor)) == Preprocessing.of(
        processor
    )


def test_preprocessing_is_that_of_torchvisions_weights(pictures):
    from torchvision.models import Swin_V2_B_Weights, ViT_B_16_Weights, ViT_H_14_Weights
    from torchvision.transforms._presets import ImageClassification

    for weights in (
        ViT_B_16_Weights.IMAGENET1K_V1,
        ViT_H_14_Weights.DEFAULT,
        Swin_V2_B_Weights.DEFAULT,
    ):
        call = weights.transforms()
        assert levels_apart(Preprocessing.of(call), call, pictures)[0] < 1e-3
    squashed = ImageClassification(crop_size=40, resize_size=64)
    squashed.resize_size = [64, 64]
    assert levels_apart(Preprocessing.of(squashed), squashed, pictures)[0] < 1e-3
    for edge in range(64, 600):  # the ratio of two sides is rounded, its effect is not
        for crop in range(32, edge, 29):
            call = ImageClassification(crop_size=crop, resize_size=edge)
            assert int(crop / processors.settings(call)[0]["crop_pct"]) == edge


@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", [64, (64, 96)])
def test_preprocessing_is_that_of_an_open_clip_model(resize_mode, size, pictures):
    from open_clip.model import CLIP, set_model_preprocess_cfg
    from open_clip.transform import PreprocessCfg, image_transform_v2

    vision = {"layers": 1, "width": 32, "head_width": 16, "image_size": 64, "patch_size": 16}
    text = {"context_length": 4, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
    model = CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)
    with pytest.raises(UnsupportedModelError, match="got CLIP without one"):
        Preprocessing.of(model)
    config = PreprocessCfg(size=size, resize_mode=resize_mode)
    set_model_preprocess_cfg(model, vars(config))
    wants = Preprocessing.of(model)
    assert wants == Preprocessing.of(model.visual)
    call = image_transform_v2(config, is_train=False)
    assert levels_apart(wants, call, pictures)[0] < 1e-3
    if resize_mode == "shortest":  # as older releases write it down
        del model.visual.preprocess_cfg
        model.visual.image_size = size
        assert Preprocessing.of(model) == wants
    set_model_preprocess_cfg(model, vars(PreprocessCfg(resize_mode="longest")))
    with pytest.raises(UnsupportedModelError, match="resize_mode 'longest' fills the border"):
        Preprocessing.of(model)


# --- float tensors ----------------------------------------------------------------------------


def test_float_tensors_reach_the_model_as_they_are():
    batch = torch.rand(2, 3, 20, 24, requires_grad=True)
    prepared = prepare(batch)
    assert prepared.inputs is batch
    assert prepared.batched
    assert prepared.names == ("image 0", "image 1")
    single = torch.rand(3, 20, 24)
    prepared = prepare(single, IMAGENET)
    assert prepared.inputs.shape == (1, 3, 20, 24)
    assert prepared.inputs.data_ptr() == single.data_ptr()
    assert not prepared.batched
    assert prepared.pixels.shape == (1, 20, 24, 3)


def test_pixels_of_raw_values():
    raw = torch.tensor([0.0, 0.25, 1.0]).reshape(1, 3, 1, 1).expand(1, 3, 2, 5)
    assert pixels_of(raw, IMAGENET)[0, 1, 4].tolist() == [0, 64, 255]
    over = torch.tensor([-0.015, 0.5, 0.9]).reshape(1, 3, 1, 1)
    assert pixels_of(over)[0, 0, 0].tolist() == [0, 128, 230]


def test_pixels_of_normalised_values_are_the_pixels():
    prepared = prepare(Image.fromarray(noise(60, 90, 3)), IMAGENET)
    assert prepared.inputs.min() < -1
    assert np.array_equal(pixels_of(prepared.inputs, IMAGENET), prepared.pixels)
    assert np.array_equal(pixels_of(prepared.inputs, lambda: IMAGENET), prepared.pixels)


def test_pixels_of_anything_else_are_stretched():
    x = torch.linspace(-4, 12, 17).reshape(1, 1, 1, 17)
    expected = [round(255 * i / 16) for i in range(17)]
    grey = Preprocessing((1, 17), (0.5,), (0.5,))
    for wants in (None, grey, lambda: Preprocessing.of(nn.Linear(1, 1))):
        pixels = pixels_of(x, wants)
        assert pixels.shape == (1, 1, 17, 3)
        assert np.abs(pixels[0, 0, :, 2].astype(int) - expected).max() <= 1
    assert (pixels_of(torch.full((1, 3, 2, 2), 7.0)) == 0).all()


def test_each_image_of_a_batch_is_judged_for_itself():
    raw, far = torch.rand(3, 8, 8), torch.randn(3, 8, 8) * 50
    normalised = prepare(noise(40, 40, 3), HALF).inputs[0][:, :8, :8]
    batch = torch.stack([raw, far, normalised])
    alone = np.concatenate([pixels_of(image[None], HALF) for image in batch])
    assert np.array_equal(pixels_of(batch, HALF), alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_pixels_of_other_floats(dtype):
    prepared = prepare(noise(40, 40, 3), HALF)
    pixels = pixels_of(prepared.inputs.to(dtype).requires_grad_(), HALF)
    tolerance = 1 if dtype == torch.bfloat16 else 0
    assert np.abs(pixels.astype(int) - prepared.pixels).max() <= tolerance


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pixels_of_a_tensor_on_the_gpu():
    prepared = prepare(noise(40, 40, 3), HALF)
    inputs = prepared.inputs.cuda().half().requires_grad_()
    again = prepare(inputs, HALF)
    assert again.inputs is inputs
    assert np.array_equal(again.pixels, prepared.pixels)


def test_tensors_that_are_no_images():
    for value in (float("nan"), float("inf"), -float("inf")):
        x = torch.rand(2, 3, 8, 8)
        x[1, 2, 3, 4] = value
        with pytest.raises(ImageError, match="NaN or inf in image 1"):
            prepare(x)
    for shape in ((0, 3, 8, 8), (2, 3, 0, 8), (1, 2, 8, 8), (1, 4, 8, 8), (8, 8), (1, 1, 3, 8, 8)):
        with pytest.raises(
            ShapeError, match=r"expected a non-empty \(B, C, H, W\) with C of 1 or 3"
        ):
            prepare(torch.zeros(shape))
    with pytest.raises(ShapeError, match="expected 3 channels for this model, got"):
        prepare(torch.zeros(1, 1, 8, 8), HALF)
    with pytest.raises(ImageError, match=r"got torch.int64 — call \.float"):
        prepare(torch.zeros(1, 3, 8, 8, dtype=torch.int64))


@settings(deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([(16, 16), (21, 34), (57, 18)]))
def test_pixels_are_what_the_model_sees(seed, sides):
    prepared = prepare(noise(*sides, 3, seed=seed), HALF)
    shown = torch.from_numpy(prepared.pixels).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(prepared.inputs, shown * 2 - 1)


def test_luma_weighs_green_most():
    colours = np.eye(3, dtype=np.uint8)[None] * 255
    assert luma(colours)[0].tolist() == pytest.approx([0.299, 0.587, 0.114])
    assert luma(np.full((2, 4, 5, 3), 255, np.uint8)).shape == (2, 4, 5)


def test_images_does_without_the_libraries_that_it_reads():
    never = {"timm", "torchvision", "transformers", "open_clip", "cv2"}
    code = f"import sys, semattn.images; print({never} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_encoded_bytes_in_memory():
    stream = io.BytesIO()
    Image.fromarray(smooth(20, 20)).save(stream, "WEBP", lossless=True)
    assert np.array_equal(read(stream.getvalue()), smooth(20, 20))


def test_tiles_without_names_are_read():
    """Before Pillow 11, a tile is a plain tuple."""
    flower = Path(__file__).parents[2] / "examples" / "flower.jpg"
    with Image.open(flower) as image:
        image.tile = [tuple(tile) for tile in image.tile]
        assert deep_colours(image, flower) is None
    named = namedtuple("Tile", "codec extents offset args")("zip", (0, 0, 1, 1), 0, "RGB;16B")
    assert _with_swapped_order(tuple(named), "RGB;16B") == ("zip", (0, 0, 1, 1), 0, "RGB;16L")
    assert _with_swapped_order(named, "RGB;16B") == named._replace(args="RGB;16L")
