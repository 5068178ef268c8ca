"""Files that were damaged after they were written."""

from __future__ import annotations

import numpy as np
import pytest

from semattn.interrelation import analyze, load_analysis
from semattn.interrelation.analysis_files import AnalysisFileError
from tests import models


@pytest.fixture(scope="module")
def found():
    return analyze(models.build("class-token"), models.images(2), replicates=3)


@pytest.mark.parametrize("damage", ["a bit", "eight bytes", "the end"])
def test_a_damaged_file_is_refused_or_whole(found, tmp_path, damage):
    file = found.save(tmp_path / "a.npz")
    whole, chance, refused = file.read_bytes(), np.random.default_rng(0), 0
    expected = found.tally.arrays()
    for _ in range(150):
        made, place = bytearray(whole), int(chance.integers(len(whole)))
        if damage == "a bit":
            made[place] ^= 1 << int(chance.integers(8))
        elif damage == "eight bytes":
            made[place : place + 8] = chance.bytes(8)
        else:
            del made[place:]
        file.write_bytes(made)
        try:
            again = load_analysis(file).tally.arrays()
        except AnalysisFileError as error:
            refused += 1
            assert str(error).startswith("file: expected an analysis")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:  # a date, or the like
            assert all(np.array_equal(values, again[name]) for name, values in expected.items())
    assert refused > 100


def test_a_file_without_one_of_its_arrays_is_refused(found, tmp_path):
    file = found.save(tmp_path / "a.npz")
    with np.load(file) as opened:
        arrays = dict(opened)
    for missing in (
        "layers", "images", "about", "sums/alignment/high", "sums/alignment/low",
        "counts/alignment", "nulls/alignment/shifted/high", "null_counts/alignment/shifted",
        "freedom/alignment/shifted",
    ):  # fmt: skip
        np.savez(file, **{name: one for name, one in arrays.items() if name != missing})
        with pytest.raises(AnalysisFileError, match="file: expected an analysis"):
            load_analysis(file)
