"""Hostile input: each thing that a fuzz run found, and a small one of every area."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semattn import AttentionPrompter
from semattn.data import list_images, open_source, read_archive
from semattn.density import Scene, concentration, densities, strata
from semattn.errors import ImageError, ShapeError
from semattn.grid import PatchGrid
from semattn.images import Preprocessing, display_name, pixels_of, prepare, read
from semattn.keypoints import Keypoints, detect
from semattn.masking import Crop, GuidedMasking, RandomMasking, loss_weights, num_visible
from tests.fuzz import reliability_fuzz
from tests.models import build


@pytest.mark.parametrize("area", reliability_fuzz.AREAS)
def test_hostile_inputs_are_answered_or_refused(area, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    row = reliability_fuzz.measured(area, 40, 1, tmp_path)
    assert row["answered"] + row["refused"] + row["crashed"] == 40
    assert row["answered"]
    assert row["refused"]
    assert not row["crashed"], row["crashes"]
    assert not row["left"], row["crashes"]
    result = reliability_fuzz.result([row], 1)
    assert {column["key"] for column in result["columns"]} <= set(result["rows"][0])


def refuses(kind: type[Exception], *parts: str):
    """One line of semattn's own, which has these parts."""
    return pytest.raises(kind, match=".*".join(parts))


# --- pictures -------------------------------------------------------------------------------------


def saved(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1)])
def test_a_line_of_pixels_is_too_small(size):
    with refuses(ImageError, "at least 16 pixels per side", f"{size[0]}x{size[1]}"):
        read(saved(Image.new("L", size)))


@pytest.mark.parametrize("size", [(16, 100_000), (1_000_000, 17)])
def test_a_long_strip_is_not_resized_to_gigabytes(size):
    wants = Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3)
    tracemalloc.start()
    with refuses(ImageError, "expected a less narrow picture", "crop it first"):
        prepare(saved(Image.new("L", size)), wants)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    narrow = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
    assert prepare(saved(Image.new("L", (16, 20_000))), narrow).pixels.shape == (1, 32, 32, 3)


BROKEN = (b"Exif\0\0", b"Exif\0\0II*\0" + b"\xff" * 40, b"Exif\0\0MM\0*\0\0\0\x08\0\x01", b"\0" * 9)


@pytest.mark.parametrize("exif", BROKEN)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_with_broken_exif_is_read_as_it_lies(form, exif):
    picture = Image.new("RGB", (20, 30), (9, 200, 100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own word about it
        image = read(saved(picture, form, exif=exif))
    assert image.size == (20, 30)
    assert not image.info


@pytest.mark.parametrize("turn", [0, 1, 9, 77])
def test_a_turn_that_exif_does_not_have_is_none(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    assert read(saved(Image.new("RGB", (20, 30)), "JPEG", exif=exif)).size == (20, 30)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_once(form):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(saved(Image.new("RGB", (20, 30)), form, exif=exif))
    assert turned.size == read(turned).size == (30, 20)


def test_a_page_of_postscript_is_no_picture():
    with refuses(ImageError, "expected pixels", "a vector image in EPS"):
        read(saved(Image.new("RGB", (32, 32)), "EPS"))


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "nul\0l", "a/" * 3000])
def test_a_name_that_no_file_can_have(name):
    with refuses(ImageError, "expected a readable file", "check"):
        read(name)


def test_a_file_behind_a_closed_door(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    file = tmp_path / "closed" / "photo.png"

    def denied(self, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    with refuses(ImageError, "expected a readable file", "Permission denied", "permissions"):
        read(file)


def test_links_that_lead_nowhere_or_in_a_circle(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    with refuses(ImageError, "expected a readable file", "loop"):
        read(tmp_path / "loop")
    with refuses(ImageError, "does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    names = [path.name for path in list_images(tmp_path)]
    assert names == ["loop", "nowhere"]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", denied)
    with refuses(ImageError, "folder: expected a readable folder", "Permission denied"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(1, 3, 8, 8, device="meta"),
        torch.rand(1, 3, 8, 8).to_sparse(),
        torch.zeros(1, 3, 8, 8, dtype=torch.complex64),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_without_numbers_to_look_at(odd):
    with refuses(ValueError, "inputs: expected real numbers in a dense tensor"):
        prepare(odd)


@pytest.mark.parametrize("dtype", ["S3", "U2", "datetime64[s]", "object", [("r", "u1")]])
def test_arrays_of_what_is_no_number(dtype):
    with refuses(ImageError, "expected numbers"):
        read(np.zeros((16, 16), dtype))


def test_a_mask_of_numpy_is_left_out_of_account():
    assert read(np.ma.masked_array(np.zeros((16, 16)), mask=True)).size == (16, 16)


def test_values_as_far_apart_as_floats_go():
    x = torch.tensor([-3e38, 0.0, 3e38]).expand(1, 3, 1, 3)
    assert pixels_of(x)[0, 0, :, 0].tolist() == [0, 128, 255]


# --- archives -------------------------------------------------------------------------------------


def tar_of(*names: str, size: int | None = None) -> bytes:
    stream, content = io.BytesIO(), saved(Image.new("RGB", (20, 20)))
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in names:
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return stream.getvalue()


def test_an_archive_that_goes_round_in_circles_ends(tmp_path):
    data = bytearray(tar_of("a.png", "b.png"))
    at = data.index(b"b.png")
    data[at + 124 : at + 136] = b"\xff" * 10 + b"\xfc\x00"  # 1,024 bytes less than nothing
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    (tmp_path / "a.tar").write_bytes(data)
    listing = read_archive(tmp_path / "a.tar")
    assert [picture.name for picture in listing.pictures] == ["a.png"]
    assert "damaged after a.png" in listing.broken


@pytest.mark.parametrize("name", ["../../x.png", "/etc/x.png", "a\x1b[2J.png", "\udcff.png"])
def test_names_in_archives_are_names_and_no_places(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(tar_of(name))
    source = open_source(tmp_path / "a.tar", (), 2)
    assert source.names[0].isprintable()
    assert source.names[0].encode("utf-8").endswith(b".png")
    assert read(source.data.sources[0]).size == (20, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


# --- keypoints, densities, masks ------------------------------------------------------------------

GRID = PatchGrid((2, 3), (32, 48), (16, 16))


def found(**fields: object) -> Keypoints:
    values = {
        "xy": torch.tensor([[3.0, 3.0], [20.0, 5.0]]), "response": torch.ones(2),
        "size": torch.ones(2), "angle": torch.zeros(2), "descriptor": None,
        "image_size": (32, 48), "detector": "drawn",
    }  # fmt: skip
    return Keypoints(**values | fields)  # type: ignore[arg-type]


def test_keypoints_in_no_place_lie_in_no_patch():
    places = torch.tensor([[np.nan, 3], [np.inf, 3], [3, -np.inf], [1e38, 1e38], [3.0, 3.0]])
    assert GRID.patch_of(places).tolist() == [-1, -1, -1, -1, 0]
    scene = Scene(np.zeros((1, 32, 48, 3), np.uint8), [found(xy=places[3:])], GRID)
    assert densities["count"](scene).sum() == 1


@pytest.mark.parametrize("name", ["xy", "response", "size", "angle"])
def test_keypoints_are_one_row_each(name):
    expected = getattr(found(), name)
    with refuses(ShapeError, f"keypoints: expected {name} for"):
        found(**{name: torch.cat([expected, expected])[:, None]})
    for odd in (expected.numpy(), None, expected.clone().requires_grad_()):
        with refuses(TypeError, f"keypoints: expected {name} as a tensor"):
            found(**{name: odd})


@pytest.mark.parametrize("value", [np.nan, np.inf, -1, "x", None, 1j])
def test_numbers_that_are_none(value):
    with refuses((ValueError, TypeError), "smoothing: expected a finite number >= 0"):
        concentration(torch.ones(1, 4), value)
    with refuses((ValueError, TypeError), "contrast_threshold: expected"):
        detect(np.zeros((1, 32, 32, 3), np.uint8), contrast_threshold=value)
    with refuses((ValueError, TypeError), "hint: expected"):
        GuidedMasking(hint=value)
    for call in (lambda: strata(torch.ones(1, 4), value), lambda: num_visible(9, value)):
        with refuses((ValueError, TypeError), "(seed|mask_ratio): expected"):
            call()


def test_no_image_is_no_batch():
    with refuses(ShapeError, "at least one image"):
        Scene(np.zeros((0, 32, 48, 3), np.uint8), (), GRID)
    assert strata(torch.zeros(0, 4)).shape == (0, 4)


def test_an_image_may_be_called_anything():
    masks = RandomMasking().masks((2, 3), ["\udcff", "\x1b[2J", ""])
    assert len({tuple(row.tolist()) for row in masks.noise}) == 3


def test_a_crop_of_nothing():
    for sides in (((0, 5), (16, 16)), ((32, 32), (0, 3))):
        with refuses(ShapeError, "crop: expected sides of at least 1 pixel"):
            Crop.center(*sides)
        with refuses(ShapeError, "crop: expected sides of at least 1 pixel"):
            Crop.draw(*sides, np.random.default_rng(0))
    crop = Crop.center((32, 48), (1, 1))
    assert len(crop.keypoints(found(xy=torch.tensor([[1e38, 0.0], [np.nan, 1.0]])))) == 0


def test_a_line_says_what_a_file_is_called_on_one_line():
    error = ImageError("image: expected a picture, got a\x1b[2J\nb\udcff.png")
    assert str(error) == "image: expected a picture, got a\\x1b[2J\\nb\\udcff.png"
    assert display_name(Path("a\tb\u202egnp.exe")) == "a\\tb\\u202egnp.exe"


# --- found by the long run ------------------------------------------------------------------------


def test_densities_that_are_no_numbers_weigh_nothing():
    with refuses(TypeError, "density: expected numbers", "got set"):
        loss_weights("kamim", {1, 2}, 64)


@pytest.mark.parametrize("shape", [(1, 0, 8, 3), (2, 8, 0, 3)])
def test_images_without_a_pixel_have_no_keypoints(shape):
    with refuses(ShapeError, "pixels: expected images of a pixel", "leave them out"):
        detect(np.zeros(shape, dtype=np.uint8))


def test_sparse_images_are_refused_by_a_prompter():
    prompter = AttentionPrompter(build("class-token"))
    with refuses(ShapeError, "inputs: expected a batch of images", "got", "dense"):
        prompter(torch.zeros(1, 3, 48, 64).to_sparse())


def test_an_archive_whose_header_claims_more_than_there_is_memory_is_damaged(tmp_path, monkeypatch):
    where = tmp_path / "one.tar"
    with tarfile.open(where, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))

    def greedy(*_):
        raise MemoryError

    monkeypatch.setattr(tarfile.TarFile, "next", greedy)
    with refuses(ImageError, "archive: expected a tar file", "one.tar"):
        read_archive(where)
