"""What an analysis found, layer by layer and head by head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..utils.provenance import model_label
from .canvas import default_settings, new_figure
from .style import EMPTY, INK, MUTED
from .words import count, cut

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
def analysis(found: Analysis, null: str = "shifted") -> Figure:
    """Alignment of every head, lift by depth, and attention distance against alignment.

    On the left, each head's alignment: red above chance, blue below; a dot where it differs from
    the null. In the middle, lift between strata by layer, mean over heads with the band of its
    interval, and dashed what the null gives. On the right, each head's attention distance and what
    is left of its alignment at equal distances.

    Parameters
    ----------
    found : what `semattn.interrelation.analyze` returned
    null : which null dots and dashes stand for; another one if there is none of this name
    """
    null = null if null in found.nulls("alignment") else (*found.nulls("alignment"), "")[0]
    drawn = new_figure(WIDE, HIGH)
    places = ((LEFT, 0.21), (0.34, 0.28), (0.70, 0.25))
    axes = [drawn.add_axes((left, BELOW, width, TALL)) for left, width in places]
    _heads(axes[0], drawn, found, null)
    _depth(axes[1], found, null)
    _distances(axes[2], drawn, found)
    model = model_label(found.manifest)
    beside = [
        count(found.images, "image"),
        f"{len(found.skipped)} skipped" if found.skipped else "",
        f"concentration by {found.manifest['options']['density']}",
        f"{found.grid.shape[1]} × {found.grid.shape[0]} patches",
        f"null: {null}" if null else "no null",
    ]
    words: dict[str, Any] = {"parse_math": False, "ha": "left"}
    title = f"Weighted patch interrelation of {cut(str(model), 60)}"
    drawn.text(0.018, 0.945, title, size=15, weight="bold", color=INK, **words)
    drawn.text(0.018, 0.898, "  ·  ".join(filter(None, beside)), size=8, color=MUTED, **words)
    return drawn


def _heads(axes: Axes, drawn: Figure, found: Analysis, null: str) -> None:
    """Layers by heads, coloured by alignment."""
    from matplotlib.colors import TwoSlopeNorm

    values = found.mean("alignment")
    reach = max(float(np.nanmax(np.abs(np.log(values)))), 1e-3)
    scale = TwoSlopeNorm(0.0, -reach, reach)
    axes.set_facecolor(EMPTY)
    shown = axes.imshow(np.log(values), cmap=DIVERGING, norm=scale, aspect="auto")
    if null:
        marked = found.against("alignment", null)["significant"].astype(bool)
        layer, head = np.nonzero(marked)
        axes.scatter(head, layer, s=9, c="white", edgecolors=INK, linewidths=0.6)
    _numbers(axes, found)
    axes.set_xticks(range(0, values.shape[1], max(1, values.shape[1] // 8)))
    axes.set(xlabel="head", ylabel="layer")
    _title(axes, "Alignment of each head", "× chance; dot: differs from the null, FDR 5 %")
    box = axes.get_position()
    bar = drawn.add_axes((box.x1 + 0.006, box.y0, 0.007, box.height))
    scale_bar = drawn.colorbar(shown, cax=bar)
    ticks = [one for one in (0.25, 0.5, 0.8, 1, 1.25, 2, 4) if abs(np.log(one)) <= reach]
    scale_bar.set_ticks(list(np.log(ticks)), labels=[f"{one:g}" for one in ticks])
    scale_bar.outline.set_visible(False)
    bar.tick_params(labelsize=7, length=0, labelcolor=MUTED)


def _depth(axes: Axes, found: Analysis, null: str) -> None:
    """Lift between strata, by layer."""
    depth = np.arange(len(found.layers))
    for asking, asked, label, colour in PAIRS:

        def pair(every: Array, asking: int = asking, asked: int = asked) -> Array:
            """(…, L, H, 3, 3) as (…, L)."""
            return _over_heads(every[..., asking, asked])

        axes.plot(depth, pair(found.mean("lift")), color=colour, lw=1.8, label=label)
        low, high = found.interval("lift", pair)
        axes.fill_between(depth, low, high, color=colour, alpha=0.18, lw=0)
        if null:
            expected = pair(found.against("lift", null)["expected"])
            axes.plot(depth, expected, color=colour, lw=1.0, ls=(0, (3, 2)), alpha=0.8)
    axes.axhline(1, color=MUTED, lw=0.7)
    _frame(axes)
    axes.set_xticks(depth, [str(layer) for layer, _ in found.layers])
    axes.set(xlabel="layer", ylabel="× uniform attention", ylim=(0, None))
    axes.legend(fontsize=7, frameon=False, ncols=2, labelcolor=INK, loc="upper left",
                bbox_to_anchor=(0, 1.0), handlelength=1.4)  # fmt: skip
    below, above = axes.get_ylim()
    axes.set_ylim(below, above * 1.18)  # room for the legend
    _title(axes, "Lift between strata", "who asks → who is asked; dashed: the null")


def _distances(axes: Axes, drawn: Figure, found: Analysis) -> None:
    """Each head: how far it attends, and what is left of its alignment at equal distances."""
    distance, matched = found.mean("distance"), found.mean("alignment_matched")
    layer = np.broadcast_to(np.arange(len(distance))[:, None], distance.shape)
    seen = np.isfinite(distance) & np.isfinite(matched)
    axes.axhline(1, color=MUTED, lw=0.7)
    points = axes.scatter(
        distance[seen], matched[seen], c=layer[seen], cmap="viridis", s=22, linewidths=0.4,
        edgecolors="white", vmin=0, vmax=max(len(distance) - 1, 1),
    )  # fmt: skip
    _frame(axes)
    axes.set(xlabel="attention distance, pixels", ylabel="× attention to the same distances")
    _title(axes, "Distance and alignment", "1: nothing but nearness; colour: layer")
    box = axes.get_position()
    bar = drawn.add_axes((box.x1 + 0.006, box.y0, 0.007, box.height))
    scale = drawn.colorbar(points, cax=bar)
    scale.outline.set_visible(False)
    ends = sorted({0, len(found.layers) - 1})
    scale.set_ticks(ends, labels=[str(found.layers[one][0]) for one in ends])
    bar.tick_params(labelsize=7, length=0, labelcolor=MUTED)


def _over_heads(values: Array) -> Array:
    """The mean over the last axis, of what is defined."""
    defined = np.isfinite(values).sum(axis=-1)
    return np.nansum(values, axis=-1) / np.where(defined, defined, np.nan)


def _numbers(axes: Axes, found: Analysis) -> None:
    """Numbers of the layers, at most about fourteen of them."""
    step = max(1, len(found.layers) // 14)
    places = range(0, len(found.layers), step)
    axes.set_yticks(places, [str(found.layers[one][0]) for one in places])
    axes.tick_params(labelsize=7, length=0, labelcolor=MUTED)
    for side in axes.spines.values():
        side.set_visible(False)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=8, color=MUTED)


def _frame(axes: Axes) -> None:
    axes.tick_params(labelsize=7, length=2, color=MUTED, labelcolor=MUTED)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set(color=MUTED, linewidth=0.6)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(size=8, color=MUTED)
    axes.margins(x=0.03)


def _title(axes: Axes, title: str, detail: str) -> None:
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "left", "parse_math": False}
    axes.text(0, 1.075, title, size=9.5, weight="bold", color=INK, **place)
    axes.text(0, 1.02, detail, size=7.5, color=MUTED, **place)
