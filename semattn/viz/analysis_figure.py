"""Figure of an analysis: alignment by head, lift by layer, attention distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..utils.provenance import model_label
from .canvas import EMPTY, INK, MUTED, default_settings, new_figure
from .texts import count_text, shorten_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..interrelation import Analysis

Array = NDArray[np.float64]

WIDE, HIGH = 13.6, 4.9  # inches
LEFT, BELOW, TALL = 0.045, 0.13, 0.66  # of the figure
DIVERGING = "RdBu_r"
PAIRS = ((2, 2, "HIGH → HIGH", "#c2410c"), (2, 0, "HIGH → EMPTY", "#2563eb"),
         (0, 2, "EMPTY → HIGH", "#f59e0b"), (0, 0, "EMPTY → EMPTY", "#64748b"))  # fmt: skip


@default_settings()
def analysis(results: Analysis, null: str = "shifted") -> Figure:
    """Draw the alignment of every head, lift by depth, and attention distance against alignment.

    Left: the alignment of each head, red above chance and blue below; a dot marks a significant
    difference from the null. Middle: lift between strata by layer, mean over heads with its
    confidence band; dashed lines show the null. Right: attention distance of each head against its
    alignment relative to patches at the same distances.

    Parameters
    ----------
    results : result of `semattn.interrelation.analyze`
    null : null distribution of dots and dashes; the first available one if it is missing
    """
    null = null if null in results.nulls("alignment") else (*results.nulls("alignment"), "")[0]
    figure = new_figure(WIDE, HIGH)
    positions = ((LEFT, 0.21), (0.34, 0.28), (0.70, 0.25))
    axes = [figure.add_axes((left, BELOW, width, TALL)) for left, width in positions]
    _draw_heads(axes[0], figure, results, null)
    _draw_depth(axes[1], results, null)
    _draw_distances(axes[2], figure, results)
    model = model_label(results.manifest)
    details = [
        count_text(results.images, "image"),
        f"{len(results.skipped)} skipped" if results.skipped else "",
        f"concentration by {results.manifest['options']['density']}",
        f"{results.grid.shape[1]} × {results.grid.shape[0]} patches",
        f"null: {null}" if null else "no null",
    ]
    style: dict[str, Any] = {"parse_math": False, "ha": "left"}
    title = f"Weighted patch interrelation of {shorten_text(str(model), 60)}"
    figure.text(0.018, 0.945, title, size=15, weight="bold", color=INK, **style)
    figure.text(0.018, 0.898, "  ·  ".join(filter(None, details)), size=8, color=MUTED, **style)
    return figure


def _draw_heads(axes: Axes, figure: Figure, results: Analysis, null: str) -> None:
    """Draw layers by heads, coloured by alignment."""
    from matplotlib.colors import TwoSlopeNorm

    values = results.mean("alignment")
    reach = max(float(np.nanmax(np.abs(np.log(values)))), 1e-3)
    scale = TwoSlopeNorm(0.0, -reach, reach)
    axes.set_facecolor(EMPTY)
    image = axes.imshow(np.log(values), cmap=DIVERGING, norm=scale, aspect="auto")
    if null:
        significant = results.against("alignment", null)["significant"].astype(bool)
        layer, head = np.nonzero(significant)
        axes.scatter(head, layer, s=9, c="white", edgecolors=INK, linewidths=0.6)
    _label_layers(axes, results)
    axes.set_xticks(range(0, values.shape[1], max(1, values.shape[1] // 8)))
    axes.set(xlabel="head", ylabel="layer")
    _add_title(axes, "Alignment of each head", "× chance; dot: differs from the null, FDR 5 %")
    box = axes.get_position()
    bar = figure.add_axes((box.x1 + 0.006, box.y0, 0.007, box.height))
    scale_bar = figure.colorbar(image, cax=bar)
    ticks = [tick for tick in (0.25, 0.5, 0.8, 1, 1.25, 2, 4) if abs(np.log(tick)) <= reach]
    scale_bar.set_ticks(list(np.log(ticks)), labels=[f"{tick:g}" for tick in ticks])
    scale_bar.outline.set_visible(False)
    bar.tick_params(labelsize=7, length=0, labelcolor=MUTED)


def _draw_depth(axes: Axes, results: Analysis, null: str) -> None:
    """Draw lift between strata, by layer."""
    depth = np.arange(len(results.layers))
    for row, column, label, colour in PAIRS:

        def pair(matrices: Array, row: int = row, column: int = column) -> Array:
            """Return (…, L, H, 3, 3) as (…, L)."""
            return _mean_over_heads(matrices[..., row, column])

        axes.plot(depth, pair(results.mean("lift")), color=colour, lw=1.8, label=label)
        low, high = results.interval("lift", pair)
        axes.fill_between(depth, low, high, color=colour, alpha=0.18, lw=0)
        if null:
            expected = pair(results.against("lift", null)["expected"])
            axes.plot(depth, expected, color=colour, lw=1.0, ls=(0, (3, 2)), alpha=0.8)
    axes.axhline(1, color=MUTED, lw=0.7)
    _style_axes(axes)
    axes.set_xticks(depth, [str(layer) for layer, _ in results.layers])
    axes.set(xlabel="layer", ylabel="× uniform attention", ylim=(0, None))
    axes.legend(fontsize=7, frameon=False, ncols=2, labelcolor=INK, loc="upper left",
                bbox_to_anchor=(0, 1.0), handlelength=1.4)  # fmt: skip
    below, above = axes.get_ylim()
    axes.set_ylim(below, above * 1.18)  # room for the legend
    _add_title(
        axes, "Lift between strata", "query → key; HIGH: many keypoints, EMPTY: none; dashed: null"
    )


def _draw_distances(axes: Axes, figure: Figure, results: Analysis) -> None:
    """Draw the attention distance and distance-matched alignment of each head."""
    distance, matched = results.mean("distance"), results.mean("alignment_matched")
    layer = np.broadcast_to(np.arange(len(distance))[:, None], distance.shape)
    is_defined = np.isfinite(distance) & np.isfinite(matched)
    axes.axhline(1, color=MUTED, lw=0.7)
    points = axes.scatter(
        distance[is_defined], matched[is_defined], c=layer[is_defined], cmap="viridis", s=22,
        linewidths=0.4, edgecolors="white", vmin=0, vmax=max(len(distance) - 1, 1),
    )  # fmt: skip
    _style_axes(axes)
    axes.set(xlabel="attention distance, pixels", ylabel="× attention to the same distances")
    _add_title(axes, "Distance and alignment", "1: explained by distance alone; colour: layer")
    box = axes.get_position()
    bar = figure.add_axes((box.x1 + 0.006, box.y0, 0.007, box.height))
    scale = figure.colorbar(points, cax=bar)
    scale.outline.set_visible(False)
    ends = sorted({0, len(results.layers) - 1})
    scale.set_ticks(ends, labels=[str(results.layers[end][0]) for end in ends])
    bar.tick_params(labelsize=7, length=0, labelcolor=MUTED)


def _mean_over_heads(values: Array) -> Array:
    """Return the mean of the finite values over the last axis."""
    defined = np.isfinite(values).sum(axis=-1)
    return np.nansum(values, axis=-1) / np.where(defined, defined, np.nan)


def _label_layers(axes: Axes, results: Analysis) -> None:
    """Label the layers, at most about fourteen of them."""
    step = max(1, len(results.layers) // 14)
    positions = range(0, len(results.layers), step)
    axes.set_yticks(positions, [str(results.layers[position][0]) for position in positions])
    axes.tick_params(labelsize=7, length=0, labelcolor=MUTED)
    for side in axes.spines.values():
        side.set_visible(False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=8, color=MUTED)


def _style_axes(axes: Axes) -> None:
    axes.tick_params(labelsize=7, length=2, color=MUTED, labelcolor=MUTED)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set(color=MUTED, linewidth=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=8, color=MUTED)
    axes.margins(x=0.03)


def _add_title(axes: Axes, title: str, detail: str) -> None:
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "parse_math": False}
    axes.text(0, 1.075, title, size=9.5, weight="bold", color=INK, **place)
    axes.text(0, 1.02, detail, size=7.5, color=MUTED, **place)
