"""Files beside class folders, images and masks never decide for the whole, and are named."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from semattn.data import is_picture, open_source
from semattn.data.labelled import read_labelled
from semattn.data.masked import open_masked as read_data
from semattn.errors import SemattnError
from semattn.spurious import discover_spurious
from tests.conftest import tiny

STRAYS = {
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "desktop.ini": b"[.ShellClassInfo]",
    "metadata.csv": b"name,label\n",
    "README.md": b"# Pictures",
    "labels": b"cat dog",
    "paper.pdf": b"%PDF-1.4",
    "docs/notes.txt": b"notes",
}
HIDDEN = {".DS_Store": b"\0\0\0\1Bud1", "._0.png": b"\0\5\26\7", ".cache/0.png": b"none"}
NAMES = ("cat", "dog", "owl", "cup", "car")


def noise(path, seed: int, side: int = 64) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    small.resize((side, side), Image.Resampling.BICUBIC).save(path)


def add(folder, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture
def photos(tmp_path):
    """Two class folders of the model with eight pictures each."""
    for label, name in enumerate(("dog", "cup")):
        for number in range(8):
            noise(tmp_path / "photos" / name / f"{number}.png", 10 * label + number)
    return tmp_path / "photos"


def labels_of(data, folder) -> dict[str, int | None]:
    return {
        path.relative_to(folder).as_posix(): label
        for path, label in zip(data.sources, data.labels, strict=True)
    }


@pytest.mark.parametrize("name", [*STRAYS, *HIDDEN])
def test_a_stray_file_changes_no_label(name, photos):
    expected = labels_of(read_labelled(photos, NAMES, 5), photos)
    assert sorted(set(expected.values())) == [1, 3]
    add(photos, {name: (STRAYS | HIDDEN)[name]})
    if name in HIDDEN:
        data = read_labelled(photos, NAMES, 5)
        assert not data.strays
    else:
        with pytest.warns(UserWarning, match="left out: 1 file is not a picture") as caught:
            data = read_labelled(photos, NAMES, 5)
        assert str(caught[0].message) == data.strays and name in data.strays
    assert labels_of(data, photos) == expected and data.note == ""


def test_a_stray_photograph_has_no_label_and_changes_no_other(photos):
    expected = labels_of(read_labelled(photos, NAMES, 5), photos)
    noise(photos / "stray.png", 99)
    add(photos, STRAYS)
    with pytest.warns(UserWarning, match="1 picture outside the class folders .stray.png. has no"):
        data = read_labelled(photos, NAMES, 5)
    assert labels_of(data, photos) == expected | {"stray.png": None}
    assert "left out: 7 files are not pictures (" in data.strays and data.note == ""
    with pytest.warns(UserWarning, match="1 picture outside"):
        source = open_source(photos, NAMES, 5)
    assert len(source) == 17 and "stray.png" in source.names


def test_a_folder_of_notes_is_no_class(tmp_path):
    for number in range(3):
        noise(tmp_path / "flat" / f"{number}.png", number)
    add(tmp_path / "flat", {"docs/notes.txt": b"notes"})
    data = read_labelled(tmp_path / "flat", NAMES, 5)
    assert "no class folders" in data.note and set(data.labels) == {None}


def test_a_picture_is_known_by_its_ending_or_its_header(tmp_path):
    noise(tmp_path / "a.png", 0)
    (tmp_path / "a.png").rename(tmp_path / "picture")
    add(tmp_path, {**STRAYS, "broken.jpg": b"none"})
    assert is_picture(tmp_path / "picture") and is_picture(tmp_path / "broken.jpg")
    assert not any(is_picture(tmp_path / name) for name in STRAYS)


def test_accuracy_counts_labelled_pictures_alone(photos):
    model = tiny()
    model.classes = NAMES
    expected = discover_spurious(model, photos)
    noise(photos / "stray.png", 99)
    with pytest.warns(UserWarning, match="1 picture outside"):
        discovery = discover_spurious(model, photos)
    assert discovery.accuracy == expected.accuracy == pytest.approx(discovery.accuracy)
    assert discovery.images == expected.images + 1
    assert any("stray.png" in note for note in discovery.notes)


@pytest.mark.usefixtures("elsewhere")
def test_commands_name_stray_files(run, photos, tmp_path):
    noise(photos / "stray.png", 99)
    add(photos, STRAYS)
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for command in (("spurious", photos), ("audit", photos, "--jobs", "explain")):
        status, out, err = run(
            *command, "--class-names", "names.txt", "--no-report", "--out", command[0]
        )
        assert status == 0, err
        assert out.count("left out: 7 files are not pictures") == 1
        assert out.count("1 picture outside the class folders (stray.png) has no label") == 1
    rows = parquet.read_table(tmp_path / "audit/explain.parquet").to_pylist()
    labels = {row["name"]: row["label"] for row in rows}
    assert labels["stray.png"] is None and len(rows) == 17
    assert all(label in (1, 3) for name, label in labels.items() if name != "stray.png")


# --- images with masks ------------------------------------------------------------------------


@pytest.fixture
def masked(photos, tmp_path):
    """The class folders, with a mask for each picture."""
    inside = np.zeros((64, 64), np.uint8)
    inside[20:40, 10:50] = 255
    for path in photos.rglob("*.png"):
        mask = tmp_path / "masks" / path.relative_to(photos)
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(inside).save(mask)
    return photos, tmp_path / "masks"


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("name", [*STRAYS, *HIDDEN, "dog/Thumbs.db", "dog/0.json"])
def test_a_stray_file_beside_images_or_masks_is_left_out(name, place, masked):
    content = (STRAYS | HIDDEN).get(name, b"{}")
    add(masked[place], {name: content})
    spec = f"masks:{masked[0]},{masked[1]}"
    if name in HIDDEN:
        data = read_data(spec)
    else:
        with pytest.warns(UserWarning, match=f"masks: left out: 1 file is not a picture .{name}"):
            data = read_data(spec)
        assert any(name in note for note in data.about["notes"])
    assert data.classes == ("cup", "dog") and len(data) == 16
    assert {data[index].label for index in range(16)} == {0, 1}
    assert data[0].mask.sum() == 800
    json.dumps(data.about)


def test_a_stray_photograph_beside_images_with_masks(masked):
    noise(masked[0] / "stray.png", 99)
    with pytest.warns(UserWarning, match="without a mask: 1 .stray.png"):
        data = read_data(f"masks:{masked[0]},{masked[1]}")
    assert len(data) == 16 and data.classes == ("cup", "dog") and data[15].label == 1
    with pytest.warns(UserWarning, match="folder: outside the class folders, without a label"):
        data = read_data(f"folder:{masked[0]}")
    assert len(data) == 17 and data.classes == ("cup", "dog")
    assert {data[index].name: data[index].label for index in range(17)}["stray.png"] is None


def test_an_image_of_a_class_without_a_mask_is_refused(masked):
    (masked[1] / "dog/3.png").unlink()
    with pytest.raises(SemattnError, match="none for 1, such as dog/3.png — add it, or move"):
        read_data(f"masks:{masked[0]},{masked[1]}")
    (masked[0] / "dog/3.png").unlink()  # as the error says
    assert len(read_data(f"masks:{masked[0]},{masked[1]}")) == 15


def test_a_folder_without_pictures_is_refused(tmp_path):
    add(tmp_path / "none", STRAYS)
    with pytest.raises(SemattnError, match="data: expected pictures, got none in"):
        read_data(f"folder:{tmp_path / 'none'}")


@pytest.mark.usefixtures("elsewhere")
def test_bench_names_stray_files_and_readings(run, masked):
    add(masked[0], {"Thumbs.db": b"none"})
    for mask in masked[1].rglob("*.png"):
        with Image.open(mask) as opened:
            Image.fromarray(np.asarray(opened) // 255).save(mask)
    status, out, err = run(
        "bench", "explain", "--data", f"masks:{masked[0]},{masked[1]}", "--methods", "random",
        "--metrics", "ap", "--images", "3",
    )  # fmt: skip
    assert status == 0, err
    assert out.count("left out: 1 file is not a picture (Thumbs.db)") == 1
    assert "labels above 0 are the object, 0 is the background (16 of 16 sampled masks" in out
