"""Transfer of batches of pictures from a worker."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from semattn.data.loading import ImageLoader
from semattn.data.prefetching import BatchDataset, BatchRange, default_workers
from semattn.images import Preprocessing
from tests.audit.pictures import folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_worker_sends_batches_bit_for_bit(tmp_path, channels):
    preprocessing = Preprocessing((48, 32), (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.25)[:channels])
    sources = sorted(folder(tmp_path / "in", 4).iterdir())
    sources[2].write_bytes(b"no picture")
    batches = BatchDataset(ImageLoader(preprocessing, "sift", ("descriptors",)), sources, 1)
    read, sent = batches.load(BatchRange(1, 4)), batches[BatchRange(1, 4)]
    received = pickle.loads(sent)
    assert len(sent) < 3 * read.images.inputs.nbytes
    assert torch.equal(received.images.inputs, read.images.inputs)
    assert received.images.inputs.is_contiguous()
    np.testing.assert_array_equal(received.images.pixels, read.images.pixels)
    assert received.images.names == read.images.names and received.numbers == read.numbers == (1, 3)
    assert received.skipped == read.skipped and received.n_sources == 3
    for actual, expected in zip(received.keypoints, read.keypoints, strict=True):
        for name, value in vars(expected).items():
            actual_value = getattr(actual, name)
            assert (
                torch.equal(actual_value, value)
                if isinstance(value, torch.Tensor)
                else actual_value == value
            )


@pytest.mark.parametrize(
    ("cores", "local_processes", "threads", "device", "expected"),
    [
        (2, None, 2, "cpu", 0), (8, None, 2, "cpu", 6), (8, "8", 1, "cpu", 0),
        (8, "2", 1, "cpu", 3), (16, None, 16, "meta", 15), (64, "8", 8, "meta", 7),
        (64, None, 1, "meta", 16), (4, "8", 1, "meta", 1),
    ],
)  # fmt: skip
def test_default_workers_use_the_free_cores(
    monkeypatch, cores, local_processes, threads, device, expected
):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if local_processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local_processes)
    assert default_workers(torch.nn.Linear(1, 1, device=device)) == expected
