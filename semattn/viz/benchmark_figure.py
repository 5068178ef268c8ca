"""A comparison of methods as a picture: a panel a metric, a row a method, intervals over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .canvas import default_settings, new_figure
from .letters import use_fonts_with_letters
from .style import INK, MUTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.table import Table

MOST, ACROSS = 6, 3  # panels, and of them in a row
READING = (
    "means, and 95 % bootstrap intervals over images; hollow: controls; ↑ more is better, ↓ less"
)


@default_settings()
def benchmark(made: Table, titles: dict[str, str], headline: str) -> Figure:
    """Dots at means, lines over 95 % intervals; controls are hollow.

    Parameters
    ----------
    titles : of the metrics, arrows and all
    headline : over it
    """
    shown = made.metrics[:MOST]
    columns = min(len(shown), ACROSS)
    rows = -(-len(shown) // columns)
    height = 0.9 + rows * (0.65 + 0.24 * len(made.methods))
    drawn = new_figure(2.6 + 2.5 * columns, height)
    panels = drawn.subplots(rows, columns, sharey=True, squeeze=False)
    for spare in panels.flat[len(shown) :]:
        spare.set_axis_off()
    places = range(len(made.methods))
    for panel, metric in zip(panels.flat, shown, strict=False):
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
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=7.5, colors=MUTED, length=0)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.spines["bottom"].set_color("0.8")
    for first in panels[:, 0]:
        first.set_yticks(list(places), made.methods)
        for label in first.get_yticklabels():
            label.set(color=INK, fontsize=8)
    panels[0, 0].invert_yaxis()  # the others share it
    drawn.suptitle(headline, x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    drawn.text(
        0.01, 0.06 / height, READING,
        fontsize=7.5, color=MUTED, parse_math=False,
    )  # fmt: skip
    use_fonts_with_letters(drawn)  # which tight_layout measures
    drawn.tight_layout(rect=(0, 0.2 / height, 1, 1 - 0.05 / height))
    return drawn
