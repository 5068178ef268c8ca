"""Figure of the curves of `bench_pretraining`: ``python -m benchmarks.studies.pretraining.curves``.

Two panels: the linear probe minus that of random masks after the same number of epochs, and the
linear probe against seconds. Reads what `pretraining_table` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import RESULTS_DIR, ROOT
from semattn.utils.atomic_files import atomic_write
from semattn.viz.canvas import INK, MUTED

from .acceleration import ARMS

PICTURE = ROOT / "docs" / "pretraining.png"
COLOURS = ("#c1440e", "#1f6fb4", "#2c8a4b", "#8a4fa3", "#b58900")  # of arms that are not controls
PROBE = "linear"
SECONDS = "seconds of training, with the time to find keypoints"


def means(curves: dict[str, list[dict[str, Any]]], key: str, seeds: Iterable[str]) -> np.ndarray:
    """Return the mean over seeds at each probed epoch."""
    mean: np.ndarray = np.mean([[entry[key] for entry in curves[seed]] for seed in seeds], axis=0)
    return mean


def draw(table: dict[str, Any]) -> Figure:
    """Draw two panels with one line per arm; controls are thin and dashed."""
    figure = Figure(figsize=(9.6, 4.2), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    random, colours = table["curves"]["random"], iter(COLOURS)
    for arm, curves in table["curves"].items():
        line: dict[str, Any] = {"label": arm, "linewidth": 1.6}
        if arm == "random":
            line |= {"color": INK, "linewidth": 2.4}
        elif ARMS[arm].control:
            line |= {"color": MUTED, "linewidth": 1.0, "linestyle": "--", "label": None}
        else:
            line |= {"color": next(colours)}
        accuracy, base = (
            100 * means(seed_curves, PROBE, curves) for seed_curves in (curves, random)
        )
        for panel, x, y in (
            (left, means(curves, "epoch", curves), accuracy - base),
            (right, means(curves, "seconds", curves), accuracy),
        ):
            panel.plot(x, y, **line)
            if line["label"] is None:
                panel.annotate(arm, (x[-1], y[-1]), (3, 0), textcoords="offset points",
                               fontsize=6, color=MUTED, va="center")  # fmt: skip
    right.axhline(100 * means(random, PROBE, random)[-1], color=INK, linewidth=0.8, linestyle=":")
    for panel, title, axis in (
        (left, "Linear probe minus that of random masks, percentage points", "epochs"),
        (right, "Linear probe, %; dotted: random masks after the last epoch", SECONDS),
    ):
        panel.set_title(title, fontsize=9, color=INK, loc="left")
        panel.set_xlabel(axis, fontsize=8, color=MUTED)
        panel.grid(color="0.92", linewidth=0.6)
        panel.tick_params(labelsize=7.5, colors=MUTED, length=0)
        panel.margins(x=0.12)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    left.legend(fontsize=7.5, frameon=False, loc="lower left", title="dashed grey: controls",
                title_fontsize=6.5, alignment="left")  # fmt: skip
    figure.tight_layout()
    return figure


def main() -> None:
    """Draw the curves of the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, default=RESULTS_DIR / "pretraining.json")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    figure = draw(json.loads(options.table.read_text(encoding="utf-8")))
    with atomic_write(options.out) as stream:
        figure.savefig(stream, format="png")


if __name__ == "__main__":
    main()
