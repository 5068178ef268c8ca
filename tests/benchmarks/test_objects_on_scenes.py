"""The composer, on cut-outs and scenes that the tests draw."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.objects_on_scenes import (
    CLASSES,
    PHOTOGRAPHS,
    SCENES,
    SPLITS,
    Objects,
    ObjectsOnScenes,
    Placement,
    catalog,
    fetch,
    sheet,
)
from benchmarks.datasets.objects_on_scenes.compose import crop_scene, paste, place, trim
from benchmarks.datasets.objects_on_scenes.export import export
from semattn.data import masked

CATALOG = {
    "disc": Objects(("disc0.png", "disc1.png"), (), ("disc2.png",)),
    "bar": Objects(("bar0.png",), ("bar1.png",), ("bar2.png", "bar3.png")),
}
BACKDROPS = {"learned": ("a.jpg", "b.jpg"), "validation": ("c.jpg",), "unseen": ("d.jpg",)}


@pytest.fixture
def root(tmp_path):
    y, x = np.mgrid[:80, :80]
    disc, bar = (x - 40) ** 2 + (y - 40) ** 2 < 900, abs(y - 40) < 8
    for name, shape in (("disc", disc), ("bar", bar)):
        for i in range(4):
            rgba = np.zeros((80, 80, 4), np.uint8)
            rgba[..., :3], rgba[..., 3] = (200, 40 * i, 10), shape * 255
            Image.fromarray(rgba).save(tmp_path / f"{name}{i}.png")
    rng = np.random.default_rng(0)
    for name in "abcd":
        noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.jpg")
    return tmp_path


def dataset(root, split="train", **options):
    options = {"size": 96, "count": 12, "catalog": CATALOG, "scenes": BACKDROPS, **options}
    return ObjectsOnScenes(root, split, **options)


def test_same_seed_same_images_and_more_of_them_change_none(root):
    first, second = dataset(root), dataset(root, count=20)
    for index in range(12):
        a, b = first[index], second[index]
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
        assert (a.label, a.object, a.scene, a.offset) == (b.label, b.object, b.scene, b.offset)


def test_seeds_and_splits_differ(root):
    first = dataset(root)[0].image
    assert (first != dataset(root, seed=1)[0].image).any()
    assert (first != dataset(root, "validation")[0].image).any()


def test_classes_and_objects_are_balanced(root):
    items = list(dataset(root))
    assert [item.label for item in items] == [0, 1] * 6
    assert [item.object for item in items[::2]] == ["disc0.png", "disc1.png"] * 3


def test_a_class_without_objects_in_a_split_is_left_out_and_keeps_its_label(root):
    assert {item.label for item in dataset(root, "validation-objects")} == {1}


def test_sizes_and_figures(root):
    for item in dataset(root):
        assert item.image.shape == (96, 96, 3)
        assert item.image.dtype == np.uint8
        assert item.mask.shape == (96, 96)
        assert item.mask.any()
        assert 0.4 < item.visible <= 1
        y, x = np.nonzero(item.mask)
        assert item.offset == pytest.approx(np.hypot(y.mean() - 47.5, x.mean() - 47.5))


def test_mask_is_exact():
    background = np.full((20, 30, 3), 100, np.uint8)
    layer = np.zeros((6, 4, 4), np.uint8)
    layer[..., 3] = 255
    layer[..., 0] = 250
    layer[0] = 0
    layer[1] = (10, 20, 30, 127)
    image, mask = paste(background, layer, (5, 3))
    expected = np.zeros((20, 30), bool)
    expected[5:9, 5:9] = True
    np.testing.assert_array_equal(mask, expected)
    assert (image[expected] == (250, 0, 0)).all()
    assert (image[3, 5:9] == 100).all()
    assert image[4, 5].tolist() == [round(p + 128 / 255 * 100) for p in (10, 20, 30)]
    assert (background == 100).all()


@pytest.mark.parametrize("corner", [(-2, -3), (27, 17), (-2, 17), (27, -3)])
def test_object_cut_by_the_frame(corner):
    layer = np.full((6, 5, 4), 255, np.uint8)
    _, mask = paste(np.zeros((20, 30, 3), np.uint8), layer, corner)
    y, x = np.mgrid[:20, :30]
    inside = (x >= corner[0]) & (x < corner[0] + 5) & (y >= corner[1]) & (y < corner[1] + 6)
    np.testing.assert_array_equal(mask, inside)
    assert mask.sum() == 3 * 3


def test_places_reach_the_whole_frame_and_show_enough():
    cutout = Image.new("RGBA", (40, 20), (1, 2, 3, 255))
    rng = np.random.default_rng(0)
    placement, lefts, tops, cut = Placement((0.3, 0.8), visible=0.5), [], [], 0
    for _ in range(300):
        layer, corner = place(cutout, 100, placement, rng)
        height, width = layer.shape[:2]
        _, mask = paste(np.zeros((100, 100, 3), np.uint8), layer, corner)
        assert mask.sum() >= 0.5 * width * height
        assert 30 <= max(width, height) <= 80
        cut += mask.sum() < width * height
        lefts.append(corner[0] + width / 2)
        tops.append(corner[1] + height / 2)
    assert min(lefts) < 15
    assert max(lefts) > 85
    assert min(tops) < 15
    assert max(tops) > 85
    assert cut > 50


def test_object_larger_than_the_frame_is_placed():
    cutout = Image.new("RGBA", (100, 100), (1, 2, 3, 255))
    placement = Placement((3, 3), visible=0.9, enlarge=4)
    layer, corner = place(cutout, 100, placement, np.random.default_rng(0))
    _, mask = paste(np.zeros((100, 100, 3), np.uint8), layer, corner)
    assert mask.mean() >= 0.9


def test_small_cutout_is_not_enlarged_beyond_the_limit():
    cutout = Image.new("RGBA", (20, 20), (1, 2, 3, 255))
    rng = np.random.default_rng(0)
    placement = Placement((0.1, 0.9), enlarge=2)
    assert max(place(cutout, 200, placement, rng)[0].shape[0] for _ in range(50)) <= 40


def test_border_colour_of_a_cutout_does_not_bleed():
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[..., 1] = 255
    rgba[10:30, 10:30] = (255, 0, 0, 255)
    layer, corner = place(
        Image.fromarray(rgba), 80, Placement((0.9, 0.9)), np.random.default_rng(0)
    )
    image, _ = paste(np.zeros((80, 80, 3), np.uint8), layer, corner)
    assert image[..., 1].max() == 0


def test_trim():
    rgba = Image.new("RGBA", (50, 40))
    rgba.paste((9, 9, 9, 255), (10, 5, 30, 25))
    assert trim(rgba).size == (20, 20)


def test_crop_scene():
    scene = Image.new("RGB", (200, 100), (1, 2, 3))
    assert (crop_scene(scene, 64, np.random.default_rng(0)) == (1, 2, 3)).all()


def test_catalogue_splits_are_disjoint():
    groups = [*SCENES.values(), tuple(PHOTOGRAPHS), catalog.FURTHER]
    for objects in CLASSES.values():
        assert objects.learned
        assert objects.unseen
        groups += [objects.learned, objects.validation, objects.unseen]
    named = [path for group in groups for path in group]
    assert len(named) == len(set(named)) == len(catalog.files())
    assert len(CLASSES) >= 12
    assert set(PHOTOGRAPHS.values()) <= set(CLASSES)
    assert SPLITS["test"] == ("learned", "unseen")
    assert not any(word in path for path in named for word in ("cartoon", "symbols", "_mirror"))


def test_sheet_outlines_the_mask(root):
    items = list(dataset(root, count=3))
    page = np.asarray(sheet(items, columns=2))
    assert page.shape == (192, 192, 3)
    assert (page[96:, 96:] == 255).all()
    assert (page[:96, :96][items[0].mask] == (255, 0, 0)).all(axis=1).any()
    np.testing.assert_array_equal(np.asarray(sheet(items, outline=False))[:, :96], items[0].image)


def test_folders_of_images_and_masks(root, tmp_path):
    data, folder = dataset(root, count=5), tmp_path / "out"
    export(data, folder)
    read = masked.open_masked(f"masks:{folder / 'images'},{folder / 'masks'}")
    assert read.classes == ("bar", "disc") and len(read) == 5
    samples = {f"{data.classes[sample.label]}/{i:06}.png": sample for i, sample in enumerate(data)}
    for item in (read[number] for number in range(5)):
        np.testing.assert_array_equal(np.asarray(item.image), samples[item.name].image)
        np.testing.assert_array_equal(item.mask, samples[item.name].mask)
    assert not list(folder.rglob("*.part"))


def test_errors_say_what_to_do(root):
    with pytest.raises(ValueError, match="choose from train, validation"):
        dataset(root, "tset")
    (root / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="objects_on_scenes.fetch"):
        dataset(root)
    with pytest.raises(IndexError):
        dataset(root, "test")[12]


def test_fetch_refuses_a_package_that_is_not_the_one(tmp_path):
    (tmp_path / "tuxpaint-stamps-default_2022.06.04-1_all.deb").write_bytes(b"other")
    with pytest.raises(fetch.FetchError, match="expected sha256"):
        fetch.fetch(tmp_path / "root", tmp_path)
    assert not list((tmp_path / "root").glob("*.done"))


def test_fetch_without_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(fetch.FetchError, match="--debs FOLDER"):
        fetch.fetch(tmp_path)


def test_fetch_when_apt_knows_nothing(tmp_path, monkeypatch):
    output = "W: noise\nE: Unable to locate package tuxpaint-stamps-default\n"
    answer = fetch.subprocess.CompletedProcess([], 100, "", output)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: name)
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: answer)
    with pytest.raises(fetch.FetchError, match=r"Unable to locate.*apt-get update"):
        fetch.fetch(tmp_path)
