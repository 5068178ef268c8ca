"""Batches of pictures on their way from a worker."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from semattn.audit.loading import Batch, Batches
from semattn.images import Preprocessing
from semattn.interrelation.reading import Reader
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
