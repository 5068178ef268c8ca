"""Batches of pictures on their way from a worker."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from semattn.data.loading import Reader
from semattn.data.prefetching import Batch, Batches, default_workers
from semattn.images import Preprocessing
from tests.audit.pictures import folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_worker_sends_what_was_read_bit_for_bit(tmp_path, channels):
    wanted = Preprocessing((48, 32), (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels])
    sources = sorted(folder(tmp_path / "in", 4).iterdir())
    sources[2].write_bytes(b"no picture")
    batches = Batches(Reader(wanted, "sift", ("descriptors",)), sources, 1)
    read, sent = batches.load(Batch(1, 4)), batches[Batch(1, 4)]
    got = pickle.loads(sent)
    assert len(sent) < 3 * read.images.inputs.nbytes
    assert torch.equal(got.images.inputs, read.images.inputs)
    assert got.images.inputs.is_contiguous()
    np.testing.assert_array_equal(got.images.pixels, read.images.pixels)
    assert got.images.names == read.images.names and got.numbers == read.numbers == (1, 3)
    assert got.skipped == read.skipped and got.given == 3
    for one, other in zip(got.keypoints, read.keypoints, strict=True):
        for name, value in vars(other).items():
            mine = getattr(one, name)
            assert torch.equal(mine, value) if isinstance(value, torch.Tensor) else mine == value


@pytest.mark.parametrize(
    ("cores", "beside", "threads", "device", "wanted"),
    [
        (2, None, 2, "cpu", 0), (8, None, 2, "cpu", 6), (8, "8", 1, "cpu", 0),
        (8, "2", 1, "cpu", 3), (16, None, 16, "meta", 15), (64, "8", 8, "meta", 7),
        (64, None, 1, "meta", 16), (4, "8", 1, "meta", 1),
    ],
)  # fmt: skip
def test_workers_take_the_cores_that_are_left(monkeypatch, cores, beside, threads, device, wanted):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if beside:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
    assert default_workers(torch.nn.Linear(1, 1, device=device)) == wanted
