"""Keypoints of a data set on disk: resumed, and computed again after an edit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semattn.data.labelled import LabelledImages
from semattn.errors import SemattnError
from semattn.keypoints import Keypoints
from semattn.keypoints.local_features import fine_sift
from semattn.spurious.marks.keypoint_store import MAX_SIDE, KeypointStore, read_pixels
from semattn.utils.processes import ignore_progress
from semattn.utils.run_store import RunStore
from tests.keypoints.drawn_marks import picture

COUNT, BROKEN = 7, 4
LABELS = (0, 1, None, 2, 1, 0, None)


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Return pictures of different sizes; one file is not a picture."""
    files = [tmp_path / f"photos/{number}.png" for number in range(COUNT)]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        Image.fromarray(picture(number, (40 + number, 60))).save(file)
    files[BROKEN].write_bytes(b"no picture")
    return files


class CountedDetector:
    """Detector that records the sizes of its images."""

    def __init__(self) -> None:
        self.sizes: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray, *, descriptors: bool) -> Keypoints:
        self.sizes.append(pixels.shape[:2])
        return fine_sift(pixels, descriptors=descriptors)


def open_store(paths, folder: Path | None, batch_size: int = 3, detector=None) -> KeypointStore:
    data = LabelledImages(tuple(paths), LABELS[: len(paths)], ())
    run_store = RunStore(folder, {}, "search")
    names = [path.name for path in paths]
    return KeypointStore(detector or fine_sift, data, run_store, names, batch_size, ignore_progress)


def check_equal(first: list[Keypoints], second: list[Keypoints]) -> None:
    assert len(first) == len(second)
    for keypoints, others in zip(first, second, strict=True):
        assert keypoints.image_size == others.image_size
        for name in ("xy", "response", "size", "angle", "descriptor"):
            assert torch.equal(getattr(keypoints, name), getattr(others, name))


def test_keypoints_are_those_of_the_detector(paths, tmp_path):
    store = open_store(paths, tmp_path / "kept")
    readable = [path for number, path in enumerate(paths) if number != BROKEN]
    assert len(store) == len(readable) == 6
    assert store.index.labels.tolist() == [0, 1, -1, 2, 0, -1]
    assert store.index.sources.tolist() == [0, 1, 2, 3, 5, 6]
    expected = [fine_sift(np.asarray(Image.open(path))) for path in readable]
    check_equal(store.keypoints(range(6)), expected)
    check_equal(store.keypoints([5, 0, 3, 3]), [expected[row] for row in (5, 0, 3, 3)])
    assert store.keypoints([]) == []
    np.testing.assert_array_equal(store.pixels(4), np.asarray(Image.open(paths[5])))
    assert [Path(store.name(row)).name for row in (0, 4)] == ["0.png", "5.png"]


def test_a_second_run_computes_nothing(paths, tmp_path):
    detector = CountedDetector()
    first = open_store(paths, tmp_path / "kept", detector=detector)
    before = first.keypoints(range(len(first)))
    assert sorted(detector.sizes) == [(40 + number, 60) for number in (0, 1, 2, 3, 5, 6)]
    assert first.missing() == []
    detector.sizes.clear()
    second = open_store(paths, tmp_path / "kept", detector=detector)
    assert second.missing() == [] and second.index.digest == first.index.digest
    check_equal(second.keypoints(range(len(second))), before)
    assert detector.sizes == []


def test_the_batch_of_a_changed_image_is_computed_again(paths, tmp_path):
    open_store(paths, tmp_path / "kept").index  # noqa: B018 — reading it extracts all batches
    Image.fromarray(picture(99, (90, 60))).save(paths[1])
    detector = CountedDetector()
    store = open_store(paths, tmp_path / "kept", detector=detector)
    assert store.missing() == [0]
    changed = store.keypoints(range(len(store)))
    assert sorted(detector.sizes) == [(40, 60), (42, 60), (90, 60)]
    check_equal([changed[1]], [fine_sift(picture(99, (90, 60)))])
    assert store.recomputed.parts == 1


def test_a_picture_that_becomes_readable_is_added(paths, tmp_path):
    assert len(open_store(paths, tmp_path / "kept")) == 6
    Image.fromarray(picture(BROKEN, (50, 60))).save(paths[BROKEN])
    store = open_store(paths, tmp_path / "kept")
    assert len(store) == 7 and store.index.skipped == []


def test_unreadable_files_are_skipped_with_a_reason(paths, tmp_path):
    for _ in range(2):  # computed, then stored
        (skipped,) = open_store(paths, tmp_path / "kept").index.skipped
        assert Path(skipped.name).name == "4.png" and "picture" in skipped.reason
        assert str(tmp_path) not in skipped.reason
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(SemattnError, match="^dataset: expected images that can be read, got none"):
        len(open_store(paths, tmp_path / "other"))


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
def test_results_do_not_depend_on_the_batch_size(paths, batch_size):
    first, second = open_store(paths, None, 3), open_store(paths, None, batch_size)
    check_equal(first.keypoints(range(6)), second.keypoints(range(6)))
    for name in ("sources", "labels", "skipped"):
        assert list(getattr(first.index, name)) == list(getattr(second.index, name))


def test_processes_share_the_batches(paths, tmp_path):
    stores = [open_store(paths, tmp_path / "kept") for _ in range(2)]
    assert stores[0].extract((0, 2)) == 4 and stores[0].missing() == [1]
    assert stores[1].extract((1, 2)) == 3 and stores[1].missing() == []
    assert stores[0].extract((0, 2)) == 0
    detector = CountedDetector()
    shared = open_store(paths, tmp_path / "kept", detector=detector)
    check_equal(shared.keypoints(range(6)), open_store(paths, None).keypoints(range(6)))
    assert detector.sizes == []


def test_batches_beyond_the_data_set_are_removed(paths, tmp_path):
    store = open_store(paths, tmp_path / "kept")
    assert len(store) == 6 and store.n_batches == 3
    fewer = open_store(paths[:3], tmp_path / "kept")
    fewer.drop_beyond()
    assert list(fewer.run_store.numbered("keypoints-")) == [0] and fewer.missing() == []


def test_pictures_without_keypoints_are_kept(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path in paths:
        Image.new("RGB", (30, 20), (9, 9, 9)).save(path)
    for _ in range(2):
        store = open_store(paths, tmp_path / "kept")
        assert [len(keypoints) for keypoints in store.keypoints([0, 1])] == [0, 0]
        assert store.keypoints([1])[0].image_size == (20, 30)


def test_large_pictures_are_reduced():
    large = np.asarray(Image.fromarray(picture(0)).resize((2 * MAX_SIDE, MAX_SIDE)))
    assert read_pixels(large)[0].shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    assert read_pixels(large)[1] == 2.0 and read_pixels(picture(0))[1] == 1.0
    np.testing.assert_array_equal(read_pixels(picture(0))[0], picture(0))
    image = Image.fromarray(large)
    read_pixels(image)
    assert image.size == (2 * MAX_SIDE, MAX_SIDE)
