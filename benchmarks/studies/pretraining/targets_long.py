"""Table of a long run of `targets`: ``python -m benchmarks.studies.pretraining.targets_long``.

A row is an epoch at which both pixels and SIFT were probed, with the difference of both probes and
its bootstrap interval over test images.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text
from semattn.utils.statistics import estimate

from .pretraining_table import CONFIDENCE, PROBES
from .probes import unpacked
from .targets_table import BASE, METHOD, read_runs

EPOCHS = 30


def difference(right: np.ndarray, base_right: np.ndarray) -> str:
    """Format the difference of two accuracies in points with its interval over test images.

    Examples
    --------
    >>> difference(np.array([1, 1, 1, 1]), np.array([1, 1, 1, 1]))
    '+0.0 [+0.0, +0.0]'
    """
    gain = estimate(right.astype(float) - base_right)
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def long_table() -> dict[str, Any]:
    """Return the table of the run of `EPOCHS` epochs."""
    runs = read_runs(RESULTS_DIR / "pretraining_targets", {"epochs": EPOCHS, "model": "small"})
    ((seed, base),) = runs[BASE].items()
    curves = [
        {entry["epoch"]: entry for entry in run["curve"] if "knn" in entry}
        for run in (base, runs[METHOD][seed])
    ]
    images = base["about"]["test"]
    columns = [{"key": "epoch", "title": "epochs", "format": "d"}]
    for probe, title in PROBES.items():
        columns += [
            {"key": f"{probe}_{arm}", "title": f"{title}, {arm}, %", "format": ".1f"}
            for arm in (BASE, METHOD)
        ]
        columns.append({"key": f"{probe}_difference", "title": "difference"})
    rows = []
    for epoch in sorted(curves[0].keys() & curves[1].keys()):
        row: dict[str, Any] = {"epoch": epoch}
        for probe in PROBES:
            base_entry, entry = (curve[epoch] for curve in curves)
            row[f"{probe}_{BASE}"] = 100 * base_entry[probe]
            row[f"{probe}_{METHOD}"] = 100 * entry[probe]
            row[f"{probe}_difference"] = difference(
                *(unpacked(run[f"{probe}_right"], images) for run in (entry, base_entry))
            )
        rows.append(row)
    caption = (
        f"One run of {EPOCHS} epochs, seed {seed}, else as above. Points with {CONFIDENCE} % "
        "intervals over test images; the next seed may differ by two points. Made by "
        f"`python -m benchmarks.studies.pretraining.targets --epochs {EPOCHS}` and `targets_long`."
    )
    return {"caption": caption, "columns": columns, "rows": rows}


def main() -> None:
    """Write the table."""
    table = json.dumps(long_table(), indent=1)
    write_text(RESULTS_DIR / "pretraining_targets_long.json", f"{table}\n")


if __name__ == "__main__":
    main()
