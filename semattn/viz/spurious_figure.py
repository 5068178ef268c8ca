"""What a search for spurious correlations found: a row a cue, or that none is confirmed."""

from __future__ import annotations

import math
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..utils.provenance import model_label
from .canvas import default_settings, new_figure
from .cues import examples_said, figure, nats, outcome, share
from .frame import MARGIN, Frame
from .letters import drawable_name
from .marks import patches_extent
from .overlay import Picture
from .style import DENSITY, INK, MUTED, colours
from .words import count, cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..grid import PatchGrid
    from ..spurious import Discovery, Effect, Example, SpuriousCue

ROWS, EXAMPLES = 4, 5
PANEL = 1.75  # inches
CHART = 2.6  # of its columns, in panels
FROM = 0.5  # patches that show a cue likelier than not
OUTLINE = "#ffc53d"
REMOVED, PUT = "#c2410c", "#2563eb"


@default_settings()
def spurious(found: Discovery) -> Figure:
    """The first confirmed cues: examples, where they sit, and what they do to the answer.

    In each example the patches that show the cue are outlined and the rest steps back. The place
    map says how often each patch shows it. Bars are the mean effects on the log-odds of the class,
    nats, lines their 95 % intervals; 0 is no effect.

    Parameters
    ----------
    found : what `semattn.discover_spurious` returned
    """
    shown = found.confirmed[:ROWS]
    if not shown:
        return _nothing(found)
    size = max((one.examples[0].pixels.shape[:2] for one in shown if one.examples),
               default=(224, 224))  # fmt: skip
    columns = EXAMPLES + 1 + math.ceil(CHART)
    frame = Frame(size, columns=columns, rows=len(shown), panel=PANEL)
    drawn = frame.empty()
    left = len(found.confirmed) - len(shown)
    more = f"{left} more confirmed" if left else ""
    frame.headline(drawn, "What the model uses that is not the object", _beside(found, more))
    for row, cue in enumerate(shown):
        _row(frame, drawn, row, cue)
    return drawn


def _row(frame: Frame, drawn: Figure, row: int, cue: SpuriousCue) -> None:
    for column, one in enumerate(cue.examples[:EXAMPLES]):
        axes = frame.axes(drawn, row, column)
        frame.show(axes, marked(one))
        outline(axes, one.matches >= FROM, one.patches)
    where = f"{cue.where}, {cue.tag}, on {share(cue.covers)} of an image"
    frame.caption(
        drawn, (row, 0), f"{row + 1}  {cut(drawable_name(cue.name, cue.target), 60)}", where
    )
    axes = frame.axes(drawn, row, EXAMPLES)
    most = float(cue.place.max()) if cue.place.size else 0.0
    frame.show(axes, colours(DENSITY, _place(cue) / max(most, 1e-9)))
    frame.caption(drawn, (row, EXAMPLES), "Where it sits", f"brightest: {share(most)} of images")
    _bars(frame, drawn, row, cue)


def marked(one: Example) -> Picture:
    """The picture of an example; where the cue is not, it steps back."""
    matches = torch.from_numpy(np.asarray(one.matches >= FROM, dtype=np.float32))
    here = one.patches.upsample(matches.flatten()[None], mode="nearest-exact")[0].numpy() > 0
    here = here[..., None]
    grey = one.pixels.mean(axis=-1, keepdims=True)
    back = 0.35 * one.pixels + 0.30 * grey + 0.30 * 255
    made: Picture = np.where(here, one.pixels, back.clip(0, 255)).astype(np.uint8)
    return made


def _place(cue: SpuriousCue) -> np.ndarray:
    """The place map (h, w); on pixels (H, W) where the patches cover a part of the image."""
    if cue.grid is None or not cue.grid.is_partial:
        return cue.place
    values = torch.from_numpy(np.asarray(cue.place, dtype=np.float64))
    shown: np.ndarray = cue.grid.upsample(values.flatten()[None], mode="nearest-exact")[0].numpy()
    return shown


def outline(axes: Axes, here: np.ndarray, grid: PatchGrid) -> None:
    """A line around patches (h, w) of bool, on a panel with the pixels of the image."""
    from matplotlib.collections import LineCollection

    left, _, _, top = patches_extent(grid)
    down, across = grid.cell
    wide = np.pad(here, 1)

    def corner(row: int, column: int) -> tuple[float, float]:
        return left + column * across, top + row * down

    lines = [[corner(i, j), corner(i, j + 1)]
             for i, j in np.argwhere(wide[:-1, 1:-1] != wide[1:, 1:-1])]  # fmt: skip
    lines += [[corner(i, j), corner(i + 1, j)]
              for i, j in np.argwhere(wide[1:-1, :-1] != wide[1:-1, 1:])]  # fmt: skip
    for colour, thick in (("black", 2.2), (OUTLINE, 1.2)):
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=thick, capstyle="round"), autolim=False
        )


def _bars(frame: Frame, drawn: Figure, row: int, cue: SpuriousCue) -> None:
    """The two effects, and what else is known of a cue in numbers."""
    left, top = frame.left(EXAMPLES + 1), frame.top(row)
    wide = frame.inches[0] - MARGIN - left
    frame.line(drawn, left, top - 0.20, "What it does to the class", size=7.35, weight="bold",
               color=INK)  # fmt: skip
    frame.line(drawn, left, top - 0.065, "log-odds, nats; lines: 95 % intervals")
    rows: tuple[tuple[str, Effect, str], ...] = (
        ("lost, removed", cue.removed, REMOVED), ("gained elsewhere", cue.transplanted, PUT),
    )  # fmt: skip
    label, tall = 1.0, 0.52 * frame.tall
    axes: Axes = drawn.add_axes(frame.box(left + label, top, wide - label, tall))
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
        frame.line(drawn, left, below - 0.02, words, color=INK)
        frame.line(drawn, left, below + 0.11, nats(effect), size=6.5)
    low, high = cue.interval
    tried = examples_said(cue)
    said = (
        f"in {share(cue.inside)} of the images of the class, {share(cue.outside)} of others",
        f"score {cue.score:.2f} [{low:.2f}, {high:.2f}] nats, p {figure(cue.p)}",
        f"examples: {tried}" if tried else "",
    )
    for number, text in enumerate(filter(None, said)):
        frame.line(drawn, left, top + tall + 0.36 + 0.15 * number, text)


def _nothing(found: Discovery) -> Figure:
    """A page that says so, with what was tried."""
    tried = found.cues[:8]
    wide, line = 9.6, 0.26
    high = 1.95 + line * (len(tried) + 1 if tried else 0)
    drawn = new_figure(wide, high)

    def say(x: float, below: float, text: str, **style: Any) -> None:
        usual: dict[str, Any] = {"size": 8.5, "color": INK, "parse_math": False}
        drawn.text(x / wide, 1 - below / high, text, **usual | style)

    say(MARGIN, 0.45, "No cue confirmed", size=15, weight="bold")
    say(MARGIN, 0.68, _beside(found, outcome_too=False), size=8, color=MUTED)
    for number, part in enumerate(wrap(outcome(found), 118)):
        say(MARGIN, 1.05 + 0.19 * number, part[:1].upper() + part[1:] if not number else part)
    if not tried:
        return drawn
    titles = ("tried, not confirmed", "where", "", "in", "others", "gained elsewhere",
              "lost, removed")  # fmt: skip
    places, top = (MARGIN, 2.5, 4.0, 5.25, 5.8, 6.5, 8.0), 1.78
    for x, title in zip(places, titles, strict=True):
        say(x, top, title, size=7.5, color=MUTED)
    for number, cue in enumerate(tried, 1):
        name = cut(drawable_name(cue.name, cue.target), 32)
        cells = (name, cue.where, cue.tag, share(cue.inside), share(cue.outside),
                 nats(cue.transplanted), nats(cue.removed))  # fmt: skip
        for x, cell in zip(places, cells, strict=True):
            say(x, top + line * number, cell)
    return drawn


def _beside(found: Discovery, *more: str, outcome_too: bool = True) -> str:
    """What was searched, in a line."""
    model = model_label(found.manifest)
    parts = [
        outcome(found) if outcome_too else "",
        f"{count(found.images, 'image')} of {len(found.classes)} classes",
        f"{len(found.skipped)} skipped" if found.skipped else "",
        f"the model is right on {share(found.accuracy)}" if found.accuracy is not None else "",
        cut(str(model), 60),
        *more,
    ]
    return "  ·  ".join(filter(None, parts))
