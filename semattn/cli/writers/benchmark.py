"""Result files of `semattn bench`: figure, tables, JSON and per-image values."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...utils.result_folder import FolderLike, ResultFolder
from ...utils.text import to_json_number, to_json_value
from ...viz import benchmark
from .folder import write_json

if TYPE_CHECKING:
    from ...evaluation.runner import Results
    from ...evaluation.table import Table

BENCHMARK_FILES = {
    "figure": "bench.png", "table": "bench.md", "result": "bench.json", "images": "bench.csv",
}  # fmt: skip


def write_benchmark(
    results: Results,
    table: Table,
    folder: FolderLike,
    *,
    markdown: str,
    titles: dict[str, str],
) -> dict[str, Path]:
    """Write figure, table, result and values of every image into `folder`; return the paths.

    ``bench.csv`` has one row per image and method, and one column per metric.

    Raises
    ------
    OutputError
        For a folder that is not writable or contains a foreign file of such a name; nothing is
        written then.
    """
    target_folder = ResultFolder.of(folder)
    with target_folder.staged() as stage:
        counted = zip((results.names, table.methods), ("image", "method"), strict=True)
        headline = ", ".join(
            f"{len(items)} {name}{'s' * (len(items) != 1)}" for items, name in counted
        )
        benchmark(table, titles, headline).savefig(stage / BENCHMARK_FILES["figure"])
        (stage / BENCHMARK_FILES["table"]).write_text(markdown, encoding="utf-8")
        with (stage / BENCHMARK_FILES["images"]).open("w", newline="", encoding="utf-8") as file:
            lines = csv.writer(file)
            lines.writerow(["image", "method", *results.metrics, "seconds"])
            for i, image in enumerate(results.names):
                for j, method in enumerate(results.methods):
                    if method not in results.refused:
                        numbers = [*results.values[i, j], results.seconds[i, j]]
                        lines.writerow(
                            [image, method, *(to_json_number(number) for number in numbers)]
                        )
        write_json(stage / BENCHMARK_FILES["result"], summary_of(results, table))
    return {name: target_folder.path / file for name, file in BENCHMARK_FILES.items()}


def summary_of(results: Results, table: Table) -> dict[str, Any]:
    """Return all results ready for JSON; None stands for an undefined number."""
    known_answers = [answer for answer in results.right if answer is not None]
    return {
        "images": len(results.names),
        "right": sum(known_answers) if known_answers else None,
        "skipped": [list(record) for record in results.skipped],
        "refused": results.refused,
        "methods": [
            {
                "method": name,
                "control": name in table.controls,
                "seconds": to_json_number(table.seconds[name]),
                "peak_mib": to_json_number(table.peak_mib[name]),
                "metrics": {
                    metric: to_json_value(asdict(table.estimates[name, metric]))
                    for metric in table.metrics
                },
                "differences": {
                    baseline: {
                        metric: to_json_value(asdict(table.differences[name, baseline, metric]))
                        for metric in table.metrics
                    }
                    for baseline in table.baselines
                    if baseline != name
                },
            }
            for name in table.methods
        ],
        "manifest": results.manifest,
    }
