"""Data sets with masks: folders, and small copies of packed benchmarks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from semattn.data.masked import EvenSubset, open_masked
from semattn.data.packed_masks import VOC_CLASSES, decode_run_lengths, decode_segmentation
from semattn.errors import ImageError, SemattnError

WIDE, HIGH = 40, 30


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (HIGH, WIDE, 3), np.uint8))


def a_mask(seed: int = 0) -> np.ndarray:
    mask = np.zeros((HIGH, WIDE), bool)
    mask[5 + seed : 20, 10:25] = True
    return mask


@pytest.fixture
def folders(tmp_path):
    for number, name in enumerate(("cat/a", "dog/b", "dog/c")):
        for kind in ("images", "masks"):
            (tmp_path / kind / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(255 * a_mask(number).astype(np.uint8)).save(
            tmp_path / "masks" / f"{name}.png"
        )
    return tmp_path / "images", tmp_path / "masks"


def test_folders_of_images_and_masks(folders):
    data = open_masked(f"masks:{folders[0]},{folders[1]}")
    assert data.classes == ("cat", "dog") and len(data) == 3
    for number, (name, label) in enumerate((("cat/a.jpg", 0), ("dog/b.jpg", 1), ("dog/c.jpg", 1))):
        item = data[number]
        assert (item.name, item.label) == (name, label)
        np.testing.assert_array_equal(item.mask, a_mask(number))
    bare = open_masked(f"folder:{folders[0]}")
    assert bare[2].mask is None and bare[2].label == 1
    json.dumps(data.about)


def test_errors_of_folders(folders, tmp_path):
    images, masks = folders
    (masks / "dog" / "c.png").rename(masks / "dog" / "d.png")
    with pytest.raises(SemattnError, match=r"none for 1, such as dog/c.jpg") as error:
        open_masked(f"masks:{images},{masks}")
    assert "\n" not in str(error.value)
    (masks / "dog" / "d.png").rename(masks / "dog" / "c.png")
    Image.new("L", (5, 5)).save(masks / "dog" / "c.png")
    with pytest.raises(
        ImageError, match="mask: expected 40x30 pixels, the size of the image, got 5x5"
    ):
        open_masked(f"masks:{images},{masks}")[2]
    (masks / "dog" / "c.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="mask: expected a picture"):
        open_masked(f"masks:{images},{masks}")[2]
    (masks / "dog" / "b.bmp").write_bytes(b"")
    with pytest.raises(SemattnError, match="1 names twice"):
        open_masked(f"masks:{images},{masks}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mask:a,b", "data: unknown name 'mask' — did you mean 'masks'"),
        ("masks", "followed by : and paths"),
        ("masks:a,b,c", "data: expected masks:IMAGES,MASKS, got 3 paths"),
        ("masks:a", "data: expected masks:IMAGES,MASKS, got 1 path "),
        ("voc:a,b,c", r"data: expected voc:ROOT,\[SPLIT\], got 3 paths"),
        ("coco:a", "data: expected coco:IMAGES,ANNOTATIONS, got 1 path "),
        ("voc:nowhere", "voc: expected nowhere"),
        ("coco:a,nowhere.json", "coco: expected COCO's annotations"),
        ("folder:nowhere", "folder: expected a readable folder"),
    ],
)
def test_unreadable_data_is_a_one_line_error(spec, message):
    with pytest.raises((ValueError, SemattnError), match=message) as error:
        open_masked(spec)
    assert "\n" not in str(error.value)


def test_pascal_voc(tmp_path):
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("one\ntwo\n")
    mask_pixels = np.zeros((HIGH, WIDE), np.uint8)
    mask_pixels[2:4, 2:4], mask_pixels[5:20, 10:25], mask_pixels[20, 10:25] = 15, 8, 255
    for name, values in (("one", mask_pixels), ("two", mask_pixels * 0)):
        picture().save(tmp_path / "JPEGImages" / f"{name}.jpg")
        mask = Image.fromarray(values, "L").convert("P")
        mask.putdata(values.ravel().tolist())
        mask.save(tmp_path / "SegmentationClass" / f"{name}.png")
    data = open_masked(f"voc:{tmp_path}")
    assert len(data) == 2 and VOC_CLASSES[data[0].label] == "cat"
    np.testing.assert_array_equal(data[0].mask, a_mask())
    with pytest.raises(ImageError, match="mask: expected a class of 1 to 20"):
        data[1]
    Image.new("RGB", (WIDE, HIGH), (128, 0, 0)).save(tmp_path / "SegmentationClass" / "one.png")
    with pytest.raises(ImageError, match="mask: expected labels in a palette .* in one.png"):
        data[0]


def packed(runs: list[int]) -> str:
    """COCO's packing, written from its description."""
    text = ""
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text += chr((bits | (32 if more else 0)) + 48)
    return text


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    borders = np.flatnonzero(np.diff(flat.astype(int))) + 1
    runs = np.diff([0, *borders, len(flat)]).tolist()
    return [0, *runs] if flat[0] else runs


def test_coco_run_lengths_round_trip():
    for seed in range(30):
        mask = np.random.default_rng(seed).random((HIGH, WIDE)) > 0.1 * (seed % 10)
        runs = runs_of(mask)
        assert decode_run_lengths(packed(runs)) == runs
        for counts in (runs, packed(runs)):
            decoded = decode_segmentation({"size": [HIGH, WIDE], "counts": counts}, (WIDE, HIGH))
            np.testing.assert_array_equal(decoded, mask)
    with pytest.raises(ImageError, match="mask: expected run lengths of 40x30"):
        decode_segmentation({"size": [HIGH, WIDE], "counts": [5, 7]}, (WIDE, HIGH))


def test_coco_run_lengths_equal_those_of_pycocotools():
    tools = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(3).random((HIGH, WIDE)) > 0.7
    encoded = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    decoded = decode_segmentation(
        {"size": encoded["size"], "counts": encoded["counts"].decode()}, (WIDE, HIGH)
    )
    np.testing.assert_array_equal(decoded, mask)


def test_coco(tmp_path):
    picture().save(tmp_path / "a.jpg")
    picture(1).save(tmp_path / "b.jpg")
    box = [10, 5, 24, 5, 24, 19, 10, 19]
    annotation_file = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "segmentation": [box]},
            {"image_id": 1, "category_id": 3, "segmentation": [[0, 0, 2, 0, 2, 2]]},
            {"image_id": 2, "category_id": 3, "segmentation": [], "iscrowd": 1},
        ],
    }
    (tmp_path / "told.json").write_text(json.dumps(annotation_file))
    data = open_masked(f"coco:{tmp_path},{tmp_path / 'told.json'}")
    assert len(data) == 1 and data.classes == ("dog", "cat")
    assert data[0].label == 1 and data[0].name == "a.jpg"
    np.testing.assert_array_equal(data[0].mask, a_mask())


def test_imagenet_segmentation(tmp_path):
    h5py = pytest.importorskip("h5py")
    file = tmp_path / "gtsegs_ijcv.mat"
    image, mask = np.asarray(picture()), a_mask()
    with h5py.File(file, "w") as h5_file:
        h5_file["one"] = image.transpose(2, 1, 0)
        h5_file["drawn"] = mask.T.astype(np.uint8)
        inner = h5_file.create_dataset("inner", (1, 1), dtype=h5py.ref_dtype)
        inner[0, 0] = h5_file["drawn"].ref
        value = h5_file.create_group("value")
        for name, of in (("img", "one"), ("gt", "inner")):
            place = value.create_dataset(name, (1, 1), dtype=h5py.ref_dtype)
            place[0, 0] = h5_file[of].ref
    data = open_masked(f"imagenet-segmentation:{file}")
    item = data[0]
    assert len(data) == 1 and item.label is None
    np.testing.assert_array_equal(np.asarray(item.image), image)
    np.testing.assert_array_equal(item.mask, mask)
    broken = tmp_path / "broken.mat"
    broken.write_bytes(b"MATLAB")
    with pytest.raises(SemattnError, match=r"expected gtsegs_ijcv.mat") as error:
        open_masked(f"imagenet-segmentation:{broken}")
    assert "\n" not in str(error.value)


def test_first_is_spread_evenly(folders):
    data = EvenSubset(open_masked(f"masks:{folders[0]},{folders[1]}"), 2)
    assert len(data) == 2 and [data[i].name for i in range(2)] == ["cat/a.jpg", "dog/c.jpg"]
    assert len(EvenSubset(data, 99)) == 2 and data.about["images"] == 2
