"""The results of `semattn bench`: the table, all numbers, and a figure."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...utils.result_folder import FolderLike, ResultFolder
from ...viz import benchmark
from .folder import write_json

if TYPE_CHECKING:
    from ...evaluation.runner import Results
    from ...evaluation.table import Table

BENCHMARK_FILES = {
    "figure": "bench.png", "table": "bench.md", "result": "bench.json", "images": "bench.csv",
}  # fmt: skip


def write_benchmark(
    found: Results,
    made: Table,
    folder: FolderLike,
    *,
    markdown: str,
    titles: dict[str, str],
) -> dict[str, Path]:
    """Write figure, table, result and the numbers of every image into `folder`: the path of each.

    ``bench.csv`` has a row for each image and method, and a column a metric.

    Raises
    ------
    OutputError
        For a folder that cannot be written to, or that holds such a file of others; nothing is
        left behind.
    """
    place = ResultFolder.of(folder)
    with place.staged() as stage:
        counted = zip((found.names, made.methods), ("image", "method"), strict=True)
        headline = ", ".join(f"{len(one)} {name}{'s' * (len(one) != 1)}" for one, name in counted)
        benchmark(made, titles, headline).savefig(stage / BENCHMARK_FILES["figure"])
        (stage / BENCHMARK_FILES["table"]).write_text(markdown, encoding="utf-8")
        with (stage / BENCHMARK_FILES["images"]).open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["image", "method", *found.metrics, "seconds"])
            for i, image in enumerate(found.names):
                for j, method in enumerate(found.methods):
                    if method not in found.refused:
                        numbers = [*found.values[i, j], found.seconds[i, j]]
                        lines.writerow([image, method, *(_plain(float(one)) for one in numbers)])
        write_json(stage / BENCHMARK_FILES["result"], summary_of(found, made))
    return {name: place.path / file for name, file in BENCHMARK_FILES.items()}


def summary_of(found: Results, made: Table) -> dict[str, Any]:
    """Everything, ready for JSON; None is a number that does not exist."""
    known = [one for one in found.right if one is not None]
    return {
        "images": len(found.names),
        "right": sum(known) if known else None,
        "skipped": [list(one) for one in found.skipped],
        "refused": found.refused,
        "methods": [
            {
                "method": name,
                "control": name in made.controls,
                "seconds": _plain(made.seconds[name]),
                "peak_mib": _plain(made.peak_mib[name]),
                "metrics": {one: _all(made.estimates[name, one]) for one in made.metrics},
                "differences": {
                    other: {one: _all(made.differences[name, other, one]) for one in made.metrics}
                    for other in made.baselines
                    if other != name
                },
            }
            for name in made.methods
        ],
        "manifest": found.manifest,
    }


def _all(one: Any) -> dict[str, float | None]:
    return {name: _plain(value) for name, value in asdict(one).items()}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
