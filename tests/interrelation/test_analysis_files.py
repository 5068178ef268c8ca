"""Damaged analysis files."""

from __future__ import annotations

import numpy as np
import pytest

from semattn.interrelation import analyze, load_analysis
from semattn.interrelation.analysis_files import AnalysisFileError
from tests import models


@pytest.fixture(scope="module")
def analysis():
    return analyze(models.build("class-token"), models.images(2), n_bootstrap=3)


@pytest.mark.parametrize("damage", ["a bit", "eight bytes", "the end"])
def test_a_damaged_file_is_refused_or_whole(analysis, tmp_path, damage):
    file = analysis.save(tmp_path / "a.npz")
    content, rng, n_refused = file.read_bytes(), np.random.default_rng(0), 0
    expected = analysis.tally.arrays()
    for _ in range(150):
        damaged, position = bytearray(content), int(rng.integers(len(content)))
        if damage == "a bit":
            damaged[position] ^= 1 << int(rng.integers(8))
        elif damage == "eight bytes":
            damaged[position : position + 8] = rng.bytes(8)
        else:
            del damaged[position:]
        file.write_bytes(damaged)
        try:
            loaded = load_analysis(file).tally.arrays()
        except AnalysisFileError as error:
            n_refused += 1
            assert str(error).startswith("file: expected an analysis")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:  # damage outside the data, such as a date
            assert all(np.array_equal(values, loaded[name]) for name, values in expected.items())
    assert n_refused > 100


def test_a_file_without_one_of_its_arrays_is_refused(analysis, tmp_path):
    file = analysis.save(tmp_path / "a.npz")
    with np.load(file) as opened:
        arrays = dict(opened)
    for missing in (
        "layers", "images", "about", "sums/alignment/high", "sums/alignment/low",
        "counts/alignment", "nulls/alignment/shifted/high", "null_counts/alignment/shifted",
        "dof/alignment/shifted",
    ):  # fmt: skip
        np.savez(file, **{name: array for name, array in arrays.items() if name != missing})
        with pytest.raises(AnalysisFileError, match="file: expected an analysis"):
            load_analysis(file)
