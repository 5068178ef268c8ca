"""A comparison of methods as a picture: a panel a metric, a row a method, intervals over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.table import Table

MOST = 6  # panels


def benchmark(made: Table, titles: dict[str, str], headline: str) -> Figure:
    """Dots at means, lines over 95 % intervals; controls are hollow."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = made.metrics[:MOST]
    height = 1.35 + 0.27 * len(made.methods)
    drawn = Figure(figsize=(3.2 + 2.3 * len(shown), height), dpi=200, facecolor="white")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    places = range(len(made.methods))
    for panel, metric in zip(panels, shown, strict=True):
        for at, name in zip(places, made.methods, strict=True):
            one = made.estimates[name, metric]
            hollow = name in made.controls
            panel.plot([one.low, one.high], [at, at], color=INK, linewidth=1.1, zorder=1)
            panel.plot(
                [one.mean], [at], marker="o", markersize=4.5, color=INK, zorder=2,
                markerfacecolor="white" if hollow else INK,
            )  # fmt: skip
        panel.set_title(titles[metric], fontsize=9, color=INK, loc="left")
        panel.grid(axis="x", color="0.9", linewidth=0.6)
        panel.tick_params(labelsize=7.5, colors=MUTED, length=0)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.spines["bottom"].set_color("0.8")
    panels[0].set_yticks(list(places), made.methods)
    for label in panels[0].get_yticklabels():
        label.set(color=INK, fontsize=8)
    panels[0].invert_yaxis()
    drawn.suptitle(headline, x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    drawn.text(
        0.01, 0.01, "means, and 95 % bootstrap intervals over images; hollow: controls",
        fontsize=7.5, color=MUTED, parse_math=False,
    )  # fmt: skip
    drawn.tight_layout(rect=(0, 0.03, 1, 0.97))
    return drawn
