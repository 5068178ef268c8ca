"""The curves of `bench_pretraining` as a picture: ``python -m benchmarks.pretraining_curves``.

The linear probe, less what random masks give after as many epochs, and the probe itself against
seconds; from what `pretraining_table` wrote.
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

from semattn.utils.atomic_files import whole
from semattn.viz.style import INK, MUTED

from .bench_pretraining import ARMS, RESULTS

PICTURE = Path(__file__).parents[1] / "docs" / "pretraining.png"
COLOURS = ("#c1440e", "#1f6fb4", "#2c8a4b", "#8a4fa3", "#b58900")  # of arms that are no controls
PROBE = "linear"


def means(curves: dict[str, list[dict[str, Any]]], key: str, seeds: Iterable[str]) -> np.ndarray:
    """The mean over seeds at each probed epoch."""
    made: np.ndarray = np.mean([[one[key] for one in curves[seed]] for seed in seeds], axis=0)
    return made


def draw(made: dict[str, Any]) -> Figure:
    """Two panels, a line an arm; controls are thin and dashed."""
    drawn = Figure(figsize=(9.6, 4.2), dpi=150, facecolor="white")
    FigureCanvasAgg(drawn)
    left, right = drawn.subplots(1, 2)
    random, colours = made["curves"]["random"], iter(COLOURS)
    for arm, curves in made["curves"].items():
        line: dict[str, Any] = {"label": arm, "linewidth": 1.6}
        if arm == "random":
            line |= {"color": INK, "linewidth": 2.4}
        elif ARMS[arm].control:
            line |= {"color": MUTED, "linewidth": 1.0, "linestyle": "--", "label": None}
        else:
            line |= {"color": next(colours)}
        accuracy, base = (100 * means(one, PROBE, curves) for one in (curves, random))
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
        (left, "linear probe − random masks, points", "epochs"),
        (right, "linear probe, %; dotted: random masks at the end", "seconds, keypoints included"),
    ):
        panel.set_title(title, fontsize=9, color=INK, loc="left")
        panel.set_xlabel(axis, fontsize=8, color=MUTED)
        panel.grid(color="0.92", linewidth=0.6)
        panel.tick_params(labelsize=7.5, colors=MUTED, length=0)
        panel.margins(x=0.12)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    left.legend(fontsize=7.5, frameon=False, loc="lower left")
    drawn.tight_layout()
    return drawn


def main() -> None:
    """Draw what the table holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--table", type=Path, default=RESULTS / "pretraining.json")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    made = draw(json.loads(options.table.read_text(encoding="utf-8")))
    with whole(options.out) as stream:
        made.savefig(stream, format="png")


if __name__ == "__main__":
    main()
