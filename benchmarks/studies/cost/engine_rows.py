"""Memory of the driver of a Ray cluster: ``python -m benchmarks.studies.cost.engine_rows``.

The engine of audits runs a million rows without a model and without images: a reading task returns
the number of its row, and an actor returns its double. All results are checked. The resident memory
of the driver is recorded after each tenth of the rows. The result is written to
benchmarks/results/engine_rows.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks import RESULTS_DIR
from semattn.audit.engines.ray import RayEngine
from semattn.utils.atomic_files import write_text

from .measuring import memory_status

RESULTS = RESULTS_DIR / "engine_rows.json"
ROWS, PARTS = 1_000_000, 10


def read(number: int) -> int:
    """Return what a reading task returns."""
    return number


class Doubling:
    """Actor that doubles a number."""

    def __call__(self, task: int, content: int) -> tuple[int, int]:
        """Return a number and its double."""
        return task, task + content


def run(count: int) -> list[dict[str, Any]]:
    """Run the rows; return the resident memory after each part of them."""
    rows: list[dict[str, Any]] = []
    seen = bytearray(count)
    with RayEngine(nn.Identity(), actors=1) as engine:
        start = time.perf_counter()
        for done, (number, double) in enumerate(engine.stream(range(count), read, Doubling, ()), 1):
            assert double == 2 * number, "a wrong result"
            seen[number] += 1
            if done == 1 or done % (count // PARTS) == 0:
                seconds = time.perf_counter() - start
                rows.append({"done": done, "mib": memory_status("VmRSS"), "seconds": seconds})
                print(rows[-1], file=sys.stderr)
    assert seen == bytearray([1]) * count, "a row is lost or doubled"
    return rows


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = run(options.rows)
    result = {
        "caption": f"{options.rows:,} rows without a model through the engine of Ray, on a machine "
        "of 2 cores that ran other programs as well: resident memory of the driver after a number "
        "of results. Every row is in the result once. Made by "
        "`python -m benchmarks.studies.cost.engine_rows`.",
        "columns": [
            {"key": "done", "title": "results", "format": ",d"},
            {"key": "mib", "title": "memory of the driver, MiB", "format": ",.0f"},
            {"key": "seconds", "title": "seconds", "format": ",.0f"},
        ],
        "rows": rows,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
