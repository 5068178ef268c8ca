"""Searches on a Ray cluster: the results of one process."""

from __future__ import annotations

import json

import numpy as np

from semattn import discover_spurious
from semattn.spurious import find_marks
from semattn.utils.atomic_files import read_arrays
from tests import marked

from . import planted


def text(result):
    return json.dumps(result.summary() | {"manifest": 0}, sort_keys=True, default=str)


def test_ray_finds_the_cues_and_marks_of_one_process(tmp_path, ray_cluster):
    pairs = planted.images(12, 0.95)
    options = {"class_names": ("red", "green", "blue"), "preprocessing": planted.OWN}
    model = planted.model_of(pairs)
    here, there = tmp_path / "here", tmp_path / "there"
    alone = discover_spurious(model, pairs, cache_dir=here, **options)
    shared = discover_spurious(model, pairs, cache_dir=there, engine="ray", **options)
    assert text(alone) == text(shared)
    for file in sorted(here.glob("class-*.npz")):
        local, remote = read_arrays(file), read_arrays(there / file.name)
        assert local.keys() == remote.keys() and len(local) > 2
        assert all(np.array_equal(local[name], remote[name]) for name in local)
    pairs = marked.pairs()
    steps = []
    single = find_marks(pairs, class_names=marked.NAMES)
    cluster = find_marks(
        pairs, class_names=marked.NAMES, engine="ray",
        progress=lambda stage, done, total: steps.append((stage, done, total)),
    )  # fmt: skip
    assert single.significant and text(single) == text(cluster)
    assert ("detecting keypoints", len(pairs), len(pairs)) in steps
    assert ray_cluster.is_initialized()
