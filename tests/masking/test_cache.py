"""Tests of the keypoint cache: contents, interrupted builds, edited pictures, other data sets."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from semattn.keypoints import detect
from semattn.masking import KeypointCache
from semattn.masking.cache import CacheError


@pytest.fixture
def pictures(tmp_path):
    paths = []
    for number in range(5):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
        path = tmp_path / "photos" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        small.resize((80 + number, 64), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    Image.new("RGB", (64, 64)).save(paths[2])  # no keypoints
    return paths


def test_the_cache_returns_the_detected_keypoints(pictures, tmp_path):
    reports = []
    cache = KeypointCache.build(
        pictures,
        tmp_path / "kept",
        shard_size=2,
        progress=lambda *progress: reports.append(progress),
    )
    assert len(cache) == 5 and reports == [
        ("keypoints", 2, 5),
        ("keypoints", 4, 5),
        ("keypoints", 5, 5),
    ]
    assert len(cache[2]) == 0
    for number, path in enumerate(pictures):
        expected = detect(np.asarray(Image.open(path).convert("RGB"))[None])[0]
        for name in ("xy", "response", "size", "angle"):
            assert torch.equal(getattr(cache[number], name), getattr(expected, name))
        assert cache[number].image_size == expected.image_size
    with pytest.raises(IndexError, match="0 to 4"):
        cache[5]


def test_large_pictures_are_resized_for_detection():
    import tempfile

    picture = np.zeros((400, 400, 3), np.uint8)
    y, x = np.mgrid[:400, :400]
    picture[(x - 120) ** 2 + (y - 280) ** 2 < 144] = 255
    with tempfile.TemporaryDirectory() as folder:
        keypoints = KeypointCache.build([picture], folder, max_side=100)[0]
        largest_xy = keypoints.xy[keypoints.size.argmax()]
    assert keypoints.image_size == (400, 400)
    assert largest_xy.tolist() == pytest.approx([120, 280], abs=2)


def test_an_interrupted_build_is_resumed(pictures, tmp_path, monkeypatch):
    cache_dir = tmp_path / "kept"

    def stop(stage, done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KeypointCache.build(pictures, cache_dir, shard_size=2, progress=stop)
    with pytest.raises(CacheError, match="valid shard"):
        KeypointCache(cache_dir)[4]
    before = {path.name: path.stat().st_mtime_ns for path in cache_dir.iterdir()}
    cache = KeypointCache.build(pictures, cache_dir, shard_size=2)
    assert len(cache[4]) > 0
    assert (
        before.items()
        <= {path.name: path.stat().st_mtime_ns for path in cache_dir.iterdir()}.items()
    )
    hidden = [path.name for path in cache_dir.iterdir() if path.name.startswith(".")]
    assert hidden == [".images.jsonl"], "no temporary files"


def test_a_cache_of_other_pictures_is_refused(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    with pytest.raises(CacheError, match="got those of other images"):
        KeypointCache.build(pictures[:-1], tmp_path / "kept")
    with pytest.raises(CacheError, match="got those of other images"):
        KeypointCache.build(pictures, tmp_path / "kept", max_side=40)
    with pytest.raises(CacheError, match=r"without a valid keypoints\.json"):
        KeypointCache(tmp_path)


def test_a_moved_data_set_keeps_its_cache(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    moved = pictures[0].parent.rename(tmp_path / "elsewhere")
    moved = moved.rename(tmp_path / "deep-photos").rename(tmp_path / "photos2")
    (tmp_path / "other").mkdir()
    home = moved.rename(tmp_path / "other" / "photos")
    KeypointCache.build(sorted(home.iterdir()), tmp_path / "kept")


def same(cache, other):
    names = ("xy", "response", "size", "angle")
    return len(cache) == len(other) and all(
        torch.equal(getattr(cache[i], name), getattr(other[i], name))
        for i in range(len(cache)) for name in names
    )  # fmt: skip


@pytest.mark.parametrize("size", ["same", "other"])
def test_keypoints_of_an_edited_picture_are_detected_again(pictures, tmp_path, size):
    """The edited file has the same modification time, and the same or another size."""
    cache_dir = tmp_path / "kept"
    for number in (3, 4):
        Image.fromarray(noise(number)).save(pictures[number], compress_level=0)
    old = KeypointCache.build(pictures, cache_dir, shard_size=2)[3].xy
    first = [file.stat().st_mtime_ns for file in sorted(cache_dir.glob("*.safetensors"))]
    before = pictures[3].stat()
    Image.fromarray(noise(9)[: 64 if size == "same" else 48]).save(pictures[3], compress_level=0)
    os.utime(pictures[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (pictures[3].stat().st_size == before.st_size) == (size == "same")
    with pytest.warns(UserWarning, match="keypoints of 2 images are computed again") as caught:
        cache = KeypointCache.build(pictures, cache_dir, shard_size=2)
    assert len(caught) == 1
    assert same(cache, KeypointCache.build(pictures, tmp_path / "fresh", shard_size=2))
    assert not torch.equal(cache[3].xy, old)
    second = [file.stat().st_mtime_ns for file in sorted(cache_dir.glob("*.safetensors"))]
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True]
    KeypointCache.build(pictures, cache_dir, shard_size=2)  # without a warning


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (64, 80, 3), dtype=np.uint8)


def test_another_list_with_the_same_names_is_detected(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    other = []
    for number, path in enumerate(pictures):
        other.append(tmp_path / "site2/photos" / path.name)
        other[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number)).save(other[-1])
    with pytest.warns(UserWarning, match="keypoints of 5 images are computed again"):
        cache = KeypointCache.build(other, tmp_path / "kept")
    assert same(cache, KeypointCache.build(other, tmp_path / "fresh"))
    arrays = [noise(number) for number in range(3)]
    with pytest.raises(CacheError, match="got those of other images"):
        KeypointCache.build(arrays, tmp_path / "kept")
    KeypointCache.build(arrays, tmp_path / "arrays")
    with pytest.warns(UserWarning, match="keypoints of 3 images are computed again"):
        KeypointCache.build(arrays[::-1], tmp_path / "arrays")


def test_unchanged_pictures_are_not_read(pictures, tmp_path, monkeypatch):
    from semattn.utils import input_identity as identity

    KeypointCache.build(pictures, tmp_path / "kept")
    monkeypatch.setattr(identity, "content_digest", lambda source: pytest.fail("read"))
    KeypointCache.build(pictures, tmp_path / "kept")


def test_replace_overwrites_the_cache_of_other_pictures(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept", shard_size=2)
    cache = KeypointCache.build(pictures[1:3], tmp_path / "kept", shard_size=2, replace=True)
    assert same(cache, KeypointCache.build(pictures[1:3], tmp_path / "fresh", shard_size=2))
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 1
    cache = KeypointCache.build(
        pictures, tmp_path / "kept", shard_size=2, max_side=40, replace=True
    )
    assert same(cache, KeypointCache.build(pictures, tmp_path / "new", shard_size=2, max_side=40))


def test_the_cache_can_be_pickled(pictures, tmp_path):
    cache = KeypointCache.build(pictures, tmp_path / "kept")
    assert len(cache[0])
    unpickled = pickle.loads(pickle.dumps(cache))
    assert torch.equal(unpickled[1].xy, cache[1].xy)


def test_a_damaged_shard_is_reported(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    next((tmp_path / "kept").glob("*.safetensors")).write_bytes(b"nothing")
    with pytest.raises(CacheError, match="delete this file and build the cache again"):
        KeypointCache(tmp_path / "kept")[0]
