"""Figure of a search for spurious cues: one row per confirmed cue."""

from __future__ import annotations

import math
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..utils.provenance import model_label
from .canvas import DENSITY, INK, MUTED, apply_palette, default_settings, drawable_name, new_figure
from .outlines import draw_outline, draw_regions
from .overlay import Picture
from .panels import MARGIN, Frame
from .texts import (
    count_text,
    examples_text,
    extent_text,
    format_nats,
    format_p,
    format_percent,
    mark_of,
    mean_picture_text,
    search_outcome,
    shorten_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..spurious import Discovery, Effect, Example, SpuriousCue

ROWS, EXAMPLES = 4, 5
PANEL = 1.75  # inches
CHART_WIDTH = 2.6  # width of the chart, in panels
MIN_MATCH = 0.5  # match score from which a patch counts as showing the cue
REMOVAL_COLOUR, TRANSPLANT_COLOUR = "#c2410c", "#2563eb"


@default_settings()
def spurious(discovery: Discovery) -> Figure:
    """Draw the first confirmed cues: examples, location map, and effects on the log-odds.

    In each example, the patches that show the cue are outlined and the rest is faded; those that
    are not off the object, and are not removed, are half faded. The location map shows how often
    each patch contains the cue. The places of a recurring mark are outlined exactly; a mark without
    a fixed place has its mean picture instead of the location map. Bars are the mean effects on the
    log-odds of the class in nats, lines their 95 % intervals; 0 is no effect.

    Parameters
    ----------
    discovery : result of `semattn.discover_spurious`
    """
    cues = discovery.confirmed[:ROWS]
    if not cues:
        return _draw_no_cues(discovery)
    size = max(
        (cue.examples[0].pixels.shape[:2] for cue in cues if cue.examples), default=(224, 224)
    )
    columns = EXAMPLES + 1 + math.ceil(CHART_WIDTH)
    frame = Frame(size, columns=columns, rows=len(cues), panel=PANEL)
    figure = frame.empty()
    n_more = len(discovery.confirmed) - len(cues)
    more = f"{n_more} more confirmed" if n_more else ""
    frame.headline(
        figure, "Spurious cues: what the model uses besides the object", _details(discovery, more)
    )
    for row, cue in enumerate(cues):
        _draw_row(frame, figure, row, cue)
    return figure


def _draw_row(frame: Frame, figure: Figure, row: int, cue: SpuriousCue) -> None:
    _draw_examples(frame, figure, row, cue)
    where = f"{cue.where}, {cue.tag}, {extent_text(cue)}"
    frame.caption(
        figure,
        (row, 0),
        f"{row + 1}  {shorten_text(drawable_name(cue.name, cue.target), 60)}",
        where,
    )
    _draw_location(frame, figure, row, cue)
    _draw_effects(frame, figure, row, cue)


def _draw_examples(frame: Frame, figure: Figure, row: int, cue: SpuriousCue) -> None:
    """Draw the examples of a cue, with its patches or the places of its mark outlined."""
    mark = mark_of(cue)
    if mark is not None:
        for column, shown in enumerate(mark.examples[:EXAMPLES]):
            draw_regions(frame.inscribe(figure, row, column, shown.pixels), shown.regions)
        return
    for column, example in enumerate(cue.examples[:EXAMPLES]):
        axes = frame.axes(figure, row, column)
        frame.show(axes, fade_outside(example))
        draw_outline(axes, _shown(example) == 1, example.patches)


def _draw_location(frame: Frame, figure: Figure, row: int, cue: SpuriousCue) -> None:
    """Draw the location map of a cue, or the mean picture of a mark without a fixed place."""
    from ..spurious.cue import SAME_PLACE

    mark = mark_of(cue)
    if mark is not None and cue.where != SAME_PLACE:
        frame.inscribe(figure, row, EXAMPLES, mark.picture)
        frame.caption(figure, (row, EXAMPLES), "Mark", mean_picture_text(mark))
        return
    axes = frame.axes(figure, row, EXAMPLES)
    largest = float(cue.place.max()) if cue.place.size else 0.0
    frame.show(axes, apply_palette(DENSITY, _place_map(cue) / max(largest, 1e-9)))
    frame.caption(
        figure,
        (row, EXAMPLES),
        "Location of the cue",
        f"yellow: in {format_percent(largest)} of its images",
    )


def fade_outside(example: Example) -> Picture:
    """Return the picture of an example, faded outside the cue; half, where it is not removed."""
    shown = torch.from_numpy(_shown(example).flatten()[None])
    strength = example.patches.upsample(shown, mode="nearest-exact")[0].numpy()[..., None]
    grey = example.pixels.mean(axis=-1, keepdims=True)
    faded_pixels = (0.35 * example.pixels + 0.30 * grey + 0.30 * 255).clip(0, 255)
    highlighted: Picture = (strength * example.pixels + (1 - strength) * faded_pixels).astype(
        np.uint8
    )
    return highlighted


def _shown(example: Example) -> np.ndarray:
    """Return 1 for patches (h, w) that show the cue, 0.5 where it is not removed, 0 for others."""
    shows = (example.matches >= MIN_MATCH).astype(np.float32)
    return shows if example.off_object is None else np.where(example.off_object, shows, shows / 2)


def _place_map(cue: SpuriousCue) -> np.ndarray:
    """Return the location map (h, w); as pixels (H, W) for a partial grid."""
    if cue.grid is None or not cue.grid.is_partial:
        return cue.place
    values = torch.from_numpy(np.asarray(cue.place, dtype=np.float64))
    pixels: np.ndarray = cue.grid.upsample(values.flatten()[None], mode="nearest-exact")[0].numpy()
    return pixels


def _draw_effects(frame: Frame, figure: Figure, row: int, cue: SpuriousCue) -> None:
    """Draw the two effects of a cue and its other statistics."""
    left, top = frame.left(EXAMPLES + 1), frame.top(row)
    wide = frame.inches[0] - MARGIN - left
    frame.line(figure, left, top - 0.20, "Effect on the class", size=7.35, weight="bold",
               color=INK)  # fmt: skip
    frame.line(figure, left, top - 0.065, "log-odds, nats; lines: 95 % intervals")
    rows: tuple[tuple[str, Effect, str], ...] = (
        ("loss by removal", cue.removal, REMOVAL_COLOUR),
        ("gain by transplant", cue.transplant, TRANSPLANT_COLOUR),
    )  # fmt: skip
    label, tall = 1.0, 0.52 * frame.tall
    axes: Axes = figure.add_axes(frame.box(left + label, top, wide - label, tall))
    for at, (_, effect, colour) in enumerate(rows):
        if math.isfinite(effect.mean):
            axes.barh(at, effect.mean, height=0.56, color=colour)
            axes.plot([effect.low, effect.high], [at, at], color=INK, lw=1.2)
    values = [v for _, e, _ in rows for v in (e.mean, e.low, e.high) if math.isfinite(v)]
    ends = min([0.0, *values]), max([0.0, *values])
    span = ends[1] - ends[0] or 1.0
    axes.set(xlim=(ends[0] - 0.04 * span * (ends[0] < 0), ends[1] + 0.06 * span), ylim=(1.6, -0.6))
    axes.axvline(0, color=MUTED, lw=0.7)
    axes.set_yticks([])
    axes.tick_params(labelsize=6.5, length=2, colors=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=MUTED, linewidth=0.5)
    for at, (words, effect, _) in enumerate(rows):
        below = top + tall * (at + 0.6) / 2.2
        frame.line(figure, left, below - 0.02, words, color=INK)
        frame.line(figure, left, below + 0.11, format_nats(effect), size=6.5)
    low, high = cue.interval
    tested = examples_text(cue)
    lines_of_text = (
        (
            f"in {format_percent(cue.inside)} of the images of the class, "
            f"{format_percent(cue.outside)} of others"
        ),
        f"score {cue.score:.2f} [{low:.2f}, {high:.2f}] nats, p {format_p(cue.p)}",
        f"examples: {tested}" if tested else "",
    )
    for number, text in enumerate(filter(None, lines_of_text)):
        frame.line(figure, left, top + tall + 0.36 + 0.15 * number, text)


def _draw_no_cues(discovery: Discovery) -> Figure:
    """Draw a page for a search without confirmed cues, with a table of tested cues."""
    tested = discovery.cues[:8]
    wide, line = 9.6, 0.26
    high = 1.95 + line * (len(tested) + 1 if tested else 0)
    figure = new_figure(wide, high)

    def write(x: float, below: float, text: str, **style: Any) -> None:
        defaults: dict[str, Any] = {"size": 8.5, "color": INK, "parse_math": False}
        figure.text(x / wide, 1 - below / high, text, **defaults | style)

    write(MARGIN, 0.45, "No cue confirmed", size=15, weight="bold")
    write(MARGIN, 0.68, _details(discovery, outcome_too=False), size=8, color=MUTED)
    for number, part in enumerate(wrap(search_outcome(discovery), 118)):
        write(MARGIN, 1.05 + 0.19 * number, part[:1].upper() + part[1:] if not number else part)
    if not tested:
        return figure
    titles = ("tested, not confirmed", "where", "", "in", "others", "transplant",
              "removal")  # fmt: skip
    places, top = (MARGIN, 2.5, 4.0, 5.25, 5.8, 6.5, 8.0), 1.78
    for x, title in zip(places, titles, strict=True):
        write(x, top, title, size=7.5, color=MUTED)
    for number, cue in enumerate(tested, 1):
        name = shorten_text(drawable_name(cue.name, cue.target), 32)
        cells = (name, cue.where, cue.tag, format_percent(cue.inside), format_percent(cue.outside),
                 format_nats(cue.transplant), format_nats(cue.removal))  # fmt: skip
        for x, cell in zip(places, cells, strict=True):
            write(x, top + line * number, cell)
    return figure


def _details(discovery: Discovery, *more: str, outcome_too: bool = True) -> str:
    """Return a line on the extent of the search."""
    model = model_label(discovery.manifest)
    parts = [
        search_outcome(discovery) if outcome_too else "",
        count_text(discovery.images, "image"),
        f"{count_text(len(discovery.classes), 'class', 'classes')} searched",
        f"{len(discovery.skipped)} skipped" if discovery.skipped else "",
        f"accuracy of the model {format_percent(discovery.accuracy)}"
        if discovery.accuracy is not None
        else "",
        shorten_text(str(model), 60),
        *more,
    ]
    return "  ·  ".join(filter(None, parts))
