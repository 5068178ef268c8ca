"""The cache of keypoints: the same as found afresh, whole or not there, refused for others."""

from __future__ import annotations

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
    Image.new("RGB", (64, 64)).save(paths[2])  # no keypoint at all
    return paths


def test_it_gives_what_is_found_afresh(pictures, tmp_path):
    done = []
    cache = KeypointCache.build(
        pictures, tmp_path / "kept", shard=2, progress=lambda *said: done.append(said)
    )
    assert len(cache) == 5 and done == [(2, 5), (4, 5), (5, 5)]
    assert len(cache[2]) == 0
    for number, path in enumerate(pictures):
        fresh = detect(np.asarray(Image.open(path).convert("RGB"))[None])[0]
        for name in ("xy", "response", "size", "angle"):
            assert torch.equal(getattr(cache[number], name), getattr(fresh, name))
        assert cache[number].image_size == fresh.image_size
    with pytest.raises(IndexError, match="0 to 4"):
        cache[5]


def test_large_pictures_are_looked_at_shrunk_in_their_own_pixels():
    import tempfile

    picture = np.zeros((400, 400, 3), np.uint8)
    y, x = np.mgrid[:400, :400]
    picture[(x - 120) ** 2 + (y - 280) ** 2 < 144] = 255
    with tempfile.TemporaryDirectory() as folder:
        found = KeypointCache.build([picture], folder, longest=100)[0]
        place = found.xy[found.size.argmax()]
    assert found.image_size == (400, 400)
    assert place.tolist() == pytest.approx([120, 280], abs=2)


def test_a_build_that_was_stopped_goes_on(pictures, tmp_path, monkeypatch):
    kept = tmp_path / "kept"

    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KeypointCache.build(pictures, kept, shard=2, progress=stop)
    with pytest.raises(CacheError, match="whole file"):
        KeypointCache(kept)[4]
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    cache = KeypointCache.build(pictures, kept, shard=2)
    assert len(cache[4]) > 0
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}.items()
    assert not [path for path in kept.iterdir() if path.name.startswith(".")]


def test_others_are_refused(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    with pytest.raises(CacheError, match="got those of others"):
        KeypointCache.build(pictures[:-1], tmp_path / "kept")
    with pytest.raises(CacheError, match="got those of others"):
        KeypointCache.build(pictures, tmp_path / "kept", longest=40)
    with pytest.raises(CacheError, match=r"without a whole keypoints\.json"):
        KeypointCache(tmp_path)


def test_a_data_set_may_move(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    moved = pictures[0].parent.rename(tmp_path / "elsewhere")
    moved = moved.rename(tmp_path / "deep-photos").rename(tmp_path / "photos2")
    (tmp_path / "other").mkdir()
    home = moved.rename(tmp_path / "other" / "photos")
    KeypointCache.build(sorted(home.iterdir()), tmp_path / "kept")


def test_it_goes_to_other_processes(pictures, tmp_path):
    cache = KeypointCache.build(pictures, tmp_path / "kept")
    assert len(cache[0])
    there = pickle.loads(pickle.dumps(cache))
    assert torch.equal(there[1].xy, cache[1].xy)


def test_damage_is_named(pictures, tmp_path):
    KeypointCache.build(pictures, tmp_path / "kept")
    next((tmp_path / "kept").glob("*.safetensors")).write_bytes(b"nothing")
    with pytest.raises(CacheError, match="delete it and build the cache again"):
        KeypointCache(tmp_path / "kept")[0]
