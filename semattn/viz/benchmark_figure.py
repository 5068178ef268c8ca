"""Figure of a benchmark: one panel per metric, one row per method, intervals over images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .canvas import INK, MUTED, default_settings, new_figure, use_fonts_with_letters

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..evaluation.table import Table

MAX_PANELS, MAX_COLUMNS = 6, 3  # panels, panels in a row
LEGEND = (
    "means with 95 % bootstrap intervals over images; hollow: controls; ↑ higher is better, ↓ lower"
)


@default_settings()
def benchmark(table: Table, titles: dict[str, str], headline: str) -> Figure:
    """Draw means as dots and 95 % intervals as lines; controls are hollow.

    Parameters
    ----------
    titles : title of each metric, with its arrow
    headline : headline of the figure
    """
    metrics = table.metrics[:MAX_PANELS]
    columns = min(len(metrics), MAX_COLUMNS)
    rows = -(-len(metrics) // columns)
    height = 0.9 + rows * (0.65 + 0.24 * len(table.methods))
    figure = new_figure(2.6 + 2.5 * columns, height)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for unused in panels.flat[len(metrics) :]:
        unused.set_axis_off()
    positions = range(len(table.methods))
    for panel, metric in zip(panels.flat, metrics, strict=False):
        for position, name in zip(positions, table.methods, strict=True):
            estimate = table.estimates[name, metric]
            is_control = name in table.controls
            panel.plot(
                [estimate.low, estimate.high],
                [position, position],
                color=INK,
                linewidth=1.1,
                zorder=1,
            )
            panel.plot(
                [estimate.mean], [position], marker="o", markersize=4.5, color=INK, zorder=2,
                markerfacecolor="white" if is_control else INK,
            )  # fmt: skip
        panel.set_title(titles[metric], fontsize=9, color=INK, loc="left")
        panel.grid(axis="x", color="0.9", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=7.5, colors=MUTED, length=0)
        for side in ("top", "right", "left"):
            panel.spines[side].set_visible(False)
        panel.spines["bottom"].set_color("0.8")
    for left_panel in panels[:, 0]:
        left_panel.set_yticks(list(positions), table.methods)
        for label in left_panel.get_yticklabels():
            label.set(color=INK, fontsize=8)
    panels[0, 0].invert_yaxis()  # the panels share the axis
    figure.suptitle(headline, x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=INK)
    figure.text(
        0.01, 0.06 / height, LEGEND,
        fontsize=7.5, color=MUTED, parse_math=False,
    )  # fmt: skip
    use_fonts_with_letters(figure)  # before tight_layout measures the texts
    figure.tight_layout(rect=(0, 0.2 / height, 1, 1 - 0.05 / height))
    return figure
