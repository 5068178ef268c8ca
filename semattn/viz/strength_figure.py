"""One image prompted more and more: what leads, the maps, and how the classes move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import default_settings
from .frame import Frame
from .marks import draw_grid
from .overlay import Picture, blended, picture_of
from .style import INK, MAP, MUTED, faded
from .words import cut, headline, how_chosen, model_name, with_drawable_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..prompting.strength_sweep import Steps

TOWARD, FROM = (1.0, 0.77, 0.24), (0.25, 0.48, 0.85)  # what gains attention, what loses it
LINES = ("#17181c", "#e4572e", "#2e86ab", "#6a994e", "#8e6c8a", "#b08900")
SHOWN = 6  # classes in the chart
FAINT = 0.05  # of probability: classes below it have no name there
PANEL = 2.6  # inches


@default_settings()
def steps(made: Steps, *, backdrop: Picture | None = None) -> Figure:
    """The image, where attention is led, the map at three strengths, and the probabilities.

    What gains attention is yellow and what loses it blue, by how many nats. Every map is of the
    class that is explained without prompt, and has its own scale.

    Parameters
    ----------
    made : what `semattn.prompting.strength_sweep.steps` returned
    backdrop : as for `semattn.viz.overlay`

    Raises
    ------
    ShapeError
        As `overlay` does.
    """
    first = with_drawable_names(made.explanation)
    picture = picture_of(first, 0, backdrop)
    places = sorted({0, len(made.strengths) // 2, len(made.strengths) - 1})
    frame = Frame(first.grid.image_size, columns=3 + len(places), panel=PANEL)
    drawn = frame.empty()
    panels = [frame.axes(drawn, 0, column) for column in range(2 + len(places))]
    height, width = first.grid.image_size
    frame.show(panels[0], picture)
    frame.show(panels[1], _led(made, picture))
    draw_grid(panels[1], made.grid)
    captions = [
        ("Image", f"{width} × {height} pixels, as the model sees it"),
        ("Attention is led", made.prompt),
    ]
    for axes, place in zip(panels[2:], places, strict=True):
        heat = first.grid.upsample(made.maps[place].flatten()[None])[0]
        frame.show(axes, blended(heat, picture))
        best = made.predicted[place]
        captions.append(
            (f"Strength {made.strengths[place]:g}",
             f"{cut(first.answer_label(best), 26)}, {made.share_texts(best)[place]}")
        )  # fmt: skip
    if first.output.in_percent:
        captions.append(("Probability", "of each class, by strength"))
    else:
        captions.append((first.output.unit.capitalize(), "of the model, by strength"))
    for column, (title, detail) in enumerate(captions):
        frame.caption(drawn, (0, column), title, detail)
    _chart(frame, drawn, made, len(captions) - 1)
    beside = [how_chosen(first, 0), first.manifest.get("method"), model_name(first)]
    frame.headline(drawn, headline(first, 0), "  ·  ".join(filter(None, beside)))
    frame.bar(drawn, 2, MAP, ("low", "high"))
    frame.note(drawn, 0, cut("  ·  ".join(first.notes), 60))
    return drawn


def _led(made: Steps, picture: Picture) -> NDArray[np.float64]:
    """The picture, faded, with what gains and loses attention."""
    most = max(float(made.bias.abs().max()), 1e-9)
    strength = (made.bias / most).float()
    shown = made.grid.upsample(strength[None], mode="nearest")[0].numpy()
    rows = np.linspace(0, shown.shape[0] - 1, picture.shape[0]).round().astype(int)
    columns = np.linspace(0, shown.shape[1] - 1, picture.shape[1]).round().astype(int)
    shown = shown[rows][:, columns]
    colour = np.where(shown[..., None] > 0, TOWARD, FROM)
    cover = 0.65 * np.abs(shown)[..., None]
    return faded(picture, 0.3, 0.8) * (1 - cover) + colour * cover


def _chart(frame: Frame, drawn: Figure, made: Steps, column: int) -> None:
    """The probabilities of the leading classes, or the logit of a model that has only one."""
    left, top = frame.left(column) + 0.3, frame.top(0)
    axes: Axes = drawn.add_axes(frame.box(left, top, frame.panel - 0.35, frame.tall - 0.2))
    names = with_drawable_names(made.explanation)
    percent = names.output.in_percent
    values = 100 * made.probabilities.numpy() if percent else made.logits.double().numpy()
    for colour, number in zip(LINES, made.leading()[:SHOWN], strict=False):
        shown = values[:, number] if percent else values.reshape(len(values), -1)[:, 0]
        axes.plot(made.strengths, shown, color=colour, lw=1.6)
        at = int(shown.argmax())
        if percent and shown[at] < 100 * FAINT:
            continue  # their names would lie on each other
        axes.annotate(
            cut(names.answer_label(number), 22), (made.strengths[at], shown[at]),
            xytext=(3, 3), textcoords="offset points", size=6.5, color=colour, parse_math=False,
            ha="left" if at < len(made.strengths) / 2 else "right",
        )  # fmt: skip
    axes.set(xlim=(0, made.strengths[-1]))
    if percent:
        axes.set(ylim=(0, 105))
    axes.set_xlabel("strength", size=7, color=MUTED, labelpad=1)
    axes.set_ylabel(
        "%" if percent else made.explanation.output.unit, size=7, color=MUTED, labelpad=1
    )
    axes.tick_params(labelsize=6.5, length=2, colors=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.5)
