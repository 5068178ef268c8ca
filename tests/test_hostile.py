"""Hostile input: each thing that a fuzz run found, and a small one of every area."""

from __future__ import annotations

import tempfile

import pytest

from benchmarks import reliability_fuzz

UNMENDED = {"arrays", "keypoints", "density", "masking", "explained", "attention", "archives",
            "kept", "checkpoints", "arguments"}  # fmt: skip


@pytest.mark.parametrize("area", reliability_fuzz.AREAS)
def test_hostile_inputs_are_answered_or_refused(area, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    row = reliability_fuzz.measured(area, 40, 1, tmp_path)
    assert row["answered"] + row["refused"] + row["crashed"] == 40
    assert row["answered"]
    assert row["refused"]
    if area not in UNMENDED:
        assert not row["crashed"], row["crashes"]
        assert not row["left"], row["crashes"]
    made = reliability_fuzz.result([row], 1)
    assert {one["key"] for one in made["columns"]} <= set(made["rows"][0])
