"""The watermark's table, worked out by hand."""

from __future__ import annotations

import pytest

from benchmarks.studies.spurious.watermark import result


def test_the_table_of_results_worked_out_by_hand():
    """Ten images: all are right when clean, 4 with the mark, 9 with the right cue, 3 without."""

    def right(count: int) -> list[bool]:
        return [number < count for number in range(10)]

    run = {
        "planted": "bird", "chosen": [2.0, "last-half", "class"], "path": {}, "drawn": 0.5,
        "right": {
            "clean": right(10), "watermark": right(4), "watermark, right cue": right(9),
            "watermark, wrong cue": right(3), "clean, right cue": right(10),
            "clean, wrong cue": right(9),
        },
    }  # fmt: skip
    row, mean = result([run])["rows"]
    assert row["clean"] == mean["clean"] == 100 and row["watermark"] == 40
    assert row["restored"] == pytest.approx(5 / 6)
    assert row["cost"].startswith("+60.0 [") and row["restored_points"].startswith("+50.0 [")
    assert row["wrong"].startswith("-10.0 [") and row["wrong_clean"].startswith("-10.0 [")
    assert row["chosen"] == "2 in last-half, queries: class" and mean["planted"] == "mean"
