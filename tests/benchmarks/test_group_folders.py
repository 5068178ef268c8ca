"""Waterbirds and ImageNet-9 as people have them, and the benchmark that takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.datasets.group_folders import WATERBIRDS_GROUPS, imagenet9, loader, waterbirds
from benchmarks.studies.prompting.groups import run
from tests.conftest import tiny


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(path)


def as_tensor(image):
    return torch.from_numpy(np.asarray(image.resize((64, 64))).copy()).permute(2, 0, 1) / 255


@pytest.fixture
def birds(tmp_path):
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for number in range(24):
        name, label, place = f"{number:03}/bird.jpg", number % 2, number // 2 % 2
        picture(tmp_path / name, number)
        lines.append(f"{number},{name},{label},{number // 8},{place},x")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def nine(tmp_path):
    for variant, split in (
        ("original", "train"), ("original", "val"), ("mixed_same", "val"), ("mixed_rand", "val"),
    ):  # fmt: skip
        for name in ("00_dog", "01_bird"):
            for number in range(4):
                picture(tmp_path / variant / split / name / f"{number}.jpg", number)
    return tmp_path


def test_waterbirds_are_read_by_split_label_and_place(birds):
    data = waterbirds(birds, "validation", as_tensor)
    assert [row.path.parent.name for row in data.rows] == [f"{n:03}" for n in range(8, 16)]
    x, labels, groups = next(iter(loader(data, batch=8)))
    assert x.shape == (8, 3, 64, 64) and labels.tolist() == [0, 1] * 4
    assert list(groups[:4]) == [WATERBIRDS_GROUPS[i] for i in (0, 2, 1, 3)]


def test_imagenet9_groups_are_variants(nine):
    data = imagenet9(nine, as_tensor)
    assert data.classes == ("00_dog", "01_bird") and len(data) == 24
    assert {row.group for row in data.rows} == {"original", "mixed_same", "mixed_rand"}
    assert all(row.path.parent.name == data.classes[row.label] for row in data.rows)


def test_what_is_missing_is_one_line(tmp_path, nine):
    with pytest.raises(ValueError, match=r"waterbirds: expected .*metadata.csv"):
        waterbirds(tmp_path / "none", "test", as_tensor)
    (tmp_path / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="metadata.csv: expected columns"):
        waterbirds(tmp_path, "test", as_tensor)
    with pytest.raises(ValueError, match="split: expected train"):
        waterbirds(tmp_path, "all", as_tensor)
    with pytest.raises(ValueError, match="imagenet9: expected .*only_fg"):
        imagenet9(nine, as_tensor, ("original", "only_fg"))


@pytest.mark.filterwarnings("ignore::semattn.errors.NoKeypointWarning")
@pytest.mark.parametrize("name", ["waterbirds", "imagenet9"])
def test_the_benchmark_chooses_and_opens_the_test_once(name, request):
    root = request.getfixturevalue({"waterbirds": "birds", "imagenet9": "nine"}[name])
    backbone = tiny()
    backbone.reset_classifier(0)
    results = run(name, root, backbone, "count")
    assert results["test"]["images"] == {"waterbirds": 8, "imagenet9": 18}[name]
    assert results["calibration"]["rule"] == "worst-group"
    assert results["test"]["prompted"]["strength"] == results["calibration"]["strength"]
    plain = results["test"]["plain"]
    assert plain["strength"] == 0 and set(plain["groups"]) == set(
        results["test"]["prompted"]["groups"]
    )
