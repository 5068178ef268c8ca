"""Rules that tell repeated objects from marks, and their table."""

from __future__ import annotations

import pytest

from benchmarks.studies.spurious.mark_objects import cases, is_dropped, summary


def row(rank: float, part: float, recognised: float | None, planted: float = 0.0):
    return {"rank": rank, "part": part, "recognised": recognised, "planted": planted}


@pytest.mark.parametrize(
    ("by_place", "by_part", "by_half", "present", "mark"),
    [
        (True, True, True, True, row(0.8, 0.1, 1.0)),
        (False, True, False, True, row(0.5, 0.9, 0.6)),
        (False, False, True, True, row(0.5, 0.4, 0.4)),
        (False, True, False, False, row(0.5, 0.9, 0.8)),
        (False, False, False, False, row(0.5, 0.2, 0.1)),
        (False, True, True, True, row(0.5, 0.7, None)),  # too few other images of the class
    ],
)
def test_each_rule_drops_its_marks(by_place, by_part, by_half, present, mark):
    dropped = [is_dropped(mark, limit) for limit in (None, 0.0, 0.5, 0.7)]
    assert dropped == [by_place, by_part, by_half, present]


def test_the_table_counts_planted_marks_apart():
    marks = [row(0.8, 0.1, 1.0), row(0.5, 0.9, 0.6), row(0.5, 0.9, 0.8, planted=0.9)]
    results = [{"dataset": "CIFAR-10", "rows": marks}, {"dataset": "compositions", "rows": []}]
    repeated, planted = summary(results)
    assert repeated == {"images": "CIFAR-10", "mark": "repeated object", "marks": 2, "rank": 1,
                        "part": 2, "half": 1, "present": 2}  # fmt: skip
    assert planted == {"images": "CIFAR-10", "mark": "planted", "marks": 1, "rank": 0, "part": 1,
                       "half": 0, "present": 0}  # fmt: skip


def test_cases_have_development_seeds_and_files_of_their_own():
    names = [case.file for case in cases()]
    assert len(names) == len(set(names)) == 8
    assert all(case.seed in (0, 1) for case in cases())
