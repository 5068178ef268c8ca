"""The second test sets: catalogue, reader of resources, cut-outs, and photographs."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets import objects_on_scenes as first, second_test_sets as second
from benchmarks.datasets.objects_on_scenes import catalog as first_catalog
from benchmarks.datasets.objects_on_scenes.fetch import FetchError
from benchmarks.datasets.second_test_sets import catalog, fetch, photographs
from benchmarks.datasets.second_test_sets.catalog import Plain
from benchmarks.datasets.second_test_sets.cutouts import cut_out
from benchmarks.datasets.second_test_sets.qt_resources import read_resources
from benchmarks.studies.explain import second_test_sets as study
from semattn.evaluation.methods import method


def test_catalogue_is_new_except_for_unseen_objects():
    old = set(first_catalog.files())
    new = [path for paths in second.NEW_OBJECTS.values() for path in paths]
    assert len(set(new)) == len(new)
    assert not old & {*new, *second.SCENES, *catalog.photographs()}
    unseen = {path for objects in first.CLASSES.values() for path in objects.unseen}
    for name, objects in second.OBJECTS.items():
        own = second.NEW_OBJECTS.get(name, ())
        assert objects.unseen[: len(own)] == own
        assert objects.unseen and set(objects.unseen[len(own) :]) <= unseen
    assert tuple(second.OBJECTS) == tuple(first.CLASSES)


def test_photographs_show_known_classes_and_no_scene_is_one():
    shown = [path for paths in second.PHOTOGRAPHS.values() for path in paths]
    assert second.PHOTOGRAPHS.keys() <= first.CLASSES.keys()
    assert len(shown) == len(set(shown))
    assert not set(second.SCENES) & {*shown, *second.PLAIN}


def resources(
    files: dict[str, bytes], flags: int = 0, version: int = 2, folder: str = "pictures"
) -> bytes:
    """Return a Qt resource file with the files of one folder."""
    names = [folder, *files]
    texts, text_offsets = b"", []
    for name in names:
        text_offsets.append(len(texts))
        texts += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    content, offsets = b"", []
    for data in files.values():
        offsets.append(len(content))
        stored = struct.pack(">I", len(data)) + zlib.compress(data) if flags & 1 else data
        content += struct.pack(">I", len(stored)) + stored
    time = b"" if version == 1 else bytes(8)
    tree = struct.pack(">IHII", 0, 2, 1, 1) + time  # root with the folder
    tree += struct.pack(">IHII", text_offsets[0], 2, len(files), 2) + time
    for text, offset in zip(text_offsets[1:], offsets, strict=True):
        tree += struct.pack(">IHHHI", text, flags, 0, 0, offset) + time
    header = struct.pack(
        ">4sIIII", b"qres", version, 20, 20 + len(tree), 20 + len(tree) + len(content)
    )
    return header + tree + content + texts


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("flags", [0, 1])
def test_resources_are_read_by_name(version, flags):
    files = {"a.webp": b"first", "ä.webp": b"second" * 50}
    data = resources(files, flags, version)
    assert read_resources(data, {"pictures/ä.webp"}) == {"pictures/ä.webp": files["ä.webp"]}
    assert read_resources(data, {"a.webp"}) == {}


def test_resources_of_other_formats_are_refused():
    with pytest.raises(ValueError, match="expected a Qt resource file"):
        read_resources(b"PNG." + bytes(16), set())
    with pytest.raises(ValueError, match="got Zstandard"):
        read_resources(resources({"a.webp": b"x"}, flags=4), {"pictures/a.webp"})


def drawn(background: int = 240) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """Return a picture of a ring with dust on a plain background, the disc and the hole."""
    y, x = np.mgrid[:80, :120]
    squared = (y - 40) ** 2 + (x - 60) ** 2
    disc, hole = squared < 30**2, squared < 12**2
    pixels = np.full((80, 120, 3), background, np.uint8)
    pixels += np.random.default_rng(0).integers(0, 10, pixels.shape, dtype=np.uint8)
    pixels[disc & ~hole] = (200, 30, 20)
    pixels[3:10, 3:10] = 0
    return Image.fromarray(pixels), disc, hole


@pytest.mark.parametrize("holes", [True, False])
def test_cutout_is_the_object_less_its_border(holes):
    picture, disc, hole = drawn()
    alpha = np.asarray(cut_out(picture, Plain(holes=holes)).getchannel("A"))
    expected = disc & ~hole if holes else disc
    inner = expected.copy()
    for shift in (1, -1):
        for axis in (0, 1):
            inner &= np.roll(expected, shift, axis)
    assert not (alpha[~expected] > 127).any()
    assert ((alpha > 127) != inner).mean() < 0.01
    assert alpha[3:10, 3:10].max() == 0


def test_tolerance_of_the_background():
    picture, disc, _ = drawn()
    alpha = np.asarray(cut_out(picture, Plain(tolerance=2)).getchannel("A"))
    assert (alpha[~disc] > 127).any()  # noise is not background


@pytest.fixture
def root(tmp_path, monkeypatch):
    picture, _, _ = drawn()
    catalogue = {
        "fish": ("photographs/f0.webp", "photographs/f1.webp"), "ball": ("photographs/b.webp",)
    }  # fmt: skip
    monkeypatch.setattr(photographs, "PLAIN", {"photographs/f0.webp": Plain()})
    (tmp_path / "photographs").mkdir()
    (tmp_path / "cutouts").mkdir()
    for paths in catalogue.values():
        for path in paths:
            picture.save(tmp_path / path, lossless=True)
    cut_out(picture, Plain()).save(tmp_path / catalog.cutout_path("photographs/f0.webp"))
    return tmp_path, catalogue


def test_photographs_take_turns_and_plain_ones_have_masks(root):
    folder, catalogue = root
    items = list(second.Photographs(folder, size=60, catalog=catalogue))
    assert [item.name[12:-5] for item in items] == ["f0", "b", "f1"]
    labels = [tuple(first.CLASSES)[item.label] for item in items]
    assert labels == ["fish", "ball", "fish"]
    assert [item.mask is not None for item in items] == [True, False, False]
    assert all(item.image.size == (60, 60) for item in items)
    fewer = second.Photographs(folder, size=60, count=2, catalog=catalogue)
    assert len(fewer) == 2 and fewer[1].name == items[1].name
    # The whole picture of 120 pixels is 60 wide; the central square of the other one is 80.
    _, disc, hole = drawn()
    ring = (disc & ~hole).sum()
    assert items[0].mask.sum() == pytest.approx(ring / 4, rel=0.15)
    for item, scale in ((items[0], 60 / 120), (items[1], 60 / 80)):
        dark = np.asarray(item.image)[..., 1] < 120
        assert dark.sum() == pytest.approx(ring * scale**2, rel=0.1)


def test_extension_copies_the_border():
    picture = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(3, 2))
    extended = np.asarray(photographs.extended(picture))
    np.testing.assert_array_equal(extended, [[0, 1, 1], [2, 3, 3], [4, 5, 5]])


def test_photographs_are_extracted_from_resources(tmp_path):
    file = tmp_path / "erase.rcc"
    file.write_bytes(resources({"a.webp": b"first"}, folder="gcompris/src/activities/erase"))
    path = "photographs/erase/a.webp"
    fetch.extract(tmp_path, file, [path])
    assert (tmp_path / path).read_bytes() == b"first"
    fetch.extract(tmp_path, tmp_path / "missing.rcc", [path])  # nothing is missing
    with pytest.raises(FetchError, match=r"expected gcompris/src/activities/erase/b\.webp"):
        fetch.extract(tmp_path, file, [path, "photographs/erase/b.webp"])


def test_every_photograph_is_in_a_resource_file():
    files = fetch.resource_files()
    paths = [path for group in files.values() for path in group]
    assert sorted(paths) == sorted(catalog.photographs())
    assert all(name.startswith("gcompris-qt/rcc/") for name in files)
    assert set(fetch.PACKAGES) >= {fetch.STAMPS}


def test_rows_of_the_study_are_methods():
    for name in study.METHODS:
        method(name)
    assert study.METHODS[0] == study.OURS
