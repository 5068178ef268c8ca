"""Table of ways to intervene: ``python -m benchmarks.studies.spurious.mark_interventions_table``.

Reads the results of `mark_interventions` and writes ``mark_interventions.json``, for the table of
docs/spurious-studies.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text

from .mark_interventions import HEAD_RATES, PER_CLASS, RESULTS, SHOWN_RATE
from .spurious_table import make_table

ALPHA = 0.05
WAYS = (
    "region pasted", "matte drawn", "true mark drawn", "region inpainted", "strokes inpainted",
    "restored",
)  # fmt: skip
MARKS = {"ImageNet-W": "watermark of ImageNet-W, fixed", "watermark": "watermark",
         "timestamp": "timestamp", "tag": "tag", "logo": "logo"}  # fmt: skip

Row = dict[str, Any]


def read_rows() -> list[Row]:
    """Return one row per case, rate of the head, and class."""
    results = [json.loads(file.read_text(encoding="utf-8")) for file in RESULTS.glob("*.json")]
    return [row | result["case"] | {"rate": row["rate"]}
            for result in results for row in result["rows"]]  # fmt: skip


def mean_rows(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """Yield one row per set, mark and rate of the head: the part of the classes that pass."""
    for dataset in ("compositions", "CIFAR-10"):
        for kind, title in MARKS.items():
            for rate in (0.0, *HEAD_RATES):
                group = [row for row in rows
                         if (row["dataset"], row["kind"], row["rate"]) == (dataset, kind, rate)
                         and row["matte"]]  # fmt: skip
                if group:
                    yield {
                        "images": dataset, "mark": title, "rate": rate, "classes": len(group),
                        **{way: float(np.mean([row[way]["p"] < ALPHA for row in group]))
                           for way in WAYS},
                    }  # fmt: skip


def main() -> None:
    """Write the table of the finished cases."""
    rows = read_rows()
    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    columns = "\n".join(f"{way} | {way} | .2f" for way in WAYS)
    table = make_table(
        "Frozen embedded backbone with linear heads that see the mark on a part (rate) of one "
        f"class, or not at all (0); development seeds: {seeds}; every second class in turn. The "
        f"mark is on {SHOWN_RATE:g} of each class of the images of the interventions ({PER_CLASS} "
        "of a class of compositions, 39 of CIFAR-10), and found there. Part of the classes for "
        f"which p < {ALPHA:g}, not corrected: three ways of transplanting the mark, whose effect "
        "must also be specific to the class, and three of removing it. Made by "
        "`python -m benchmarks.studies.spurious.mark_interventions`.",
        f"""
        images | images
        mark | mark
        rate | rate | .1f
        classes | classes | d
        {columns}
        """,
        list(mean_rows(rows)),
    )
    write_text(RESULTS_DIR / "mark_interventions.json", json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
