"""Figure of one image prompted at several strengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .canvas import INK, MAP, MUTED, default_settings, fade_picture
from .overlay import Picture, blend, select_picture
from .panels import BAR, Frame, draw_grid
from .texts import (
    headline,
    model_name,
    selection_text,
    shorten_text,
    target_text,
    with_drawable_names,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..prompting.strength_sweep import StrengthSweep

TOWARD, AWAY = (1.0, 0.77, 0.24), (0.25, 0.48, 0.85)  # colours of positive and negative bias
LINES = ("#17181c", "#e4572e", "#2e86ab", "#6a994e", "#8e6c8a", "#b08900")
MAX_CLASSES = 6  # classes in the chart
MIN_LABELLED = 0.05  # probability; classes that stay below it are not labelled
LABEL_HEIGHT = 5.0  # per cent of the chart
PANEL = 2.6  # inches


@default_settings()
def strength_sweep(prompted: StrengthSweep, *, backdrop: Picture | None = None) -> Figure:
    """Draw the image, the attention bias, the map at three strengths, and the probabilities.

    Positive bias is yellow and negative bias is blue. Every map explains the class that is
    explained without prompt, and has its own scale.

    Parameters
    ----------
    prompted : result of `semattn.prompting.strength_sweep.strength_sweep`
    backdrop : as for `semattn.viz.overlay`

    Raises
    ------
    ShapeError
        See `overlay`.
    """
    first = with_drawable_names(prompted.explanation)
    picture = select_picture(first, 0, backdrop)
    indices = sorted({0, len(prompted.strengths) // 2, len(prompted.strengths) - 1})
    frame = Frame(first.grid.image_size, columns=3 + len(indices), panel=PANEL)
    figure = frame.empty()
    panels = [frame.axes(figure, 0, column) for column in range(2 + len(indices))]
    height, width = first.grid.image_size
    frame.show(panels[0], picture)
    frame.show(panels[1], _draw_bias(prompted, picture))
    draw_grid(panels[1], prompted.grid)
    captions = [
        ("Image", f"{width} × {height} pixels, as the model sees it"),
        ("Attention is biased", prompted.prompt),
    ]
    for axes, index in zip(panels[2:], indices, strict=True):
        heat_map = first.grid.upsample(prompted.maps[index].flatten()[None])[0]
        frame.show(axes, blend(heat_map, picture))
        best = prompted.predicted[index]
        captions.append(
            (f"Strength {prompted.strengths[index]:g}",
             f"{shorten_text(first.answer_label(best), 26)}, {prompted.share_texts(best)[index]}")
        )  # fmt: skip
    if first.output.in_percent:
        captions.append(("Probability", "of each class, by strength"))
    else:
        captions.append((first.output.unit.capitalize(), "of the model, by strength"))
    for column, (title, detail) in enumerate(captions):
        frame.caption(figure, (0, column), title, detail)
    _draw_chart(frame, figure, prompted, len(captions) - 1)
    title, *outcome = _outcome(prompted)
    details = [*outcome, first.manifest.get("method"), model_name(first)]
    frame.headline(figure, title, "  ·  ".join(filter(None, details)))
    frame.bar(figure, 2, MAP, ("low", "high in each map"))
    frame.line(figure, frame.left(1), frame.inches[1] - frame.foot + 0.15 + BAR,
               _colours_text(prompted))  # fmt: skip
    frame.note(figure, 1, shorten_text("  ·  ".join(first.notes), 60))
    return figure


def _outcome(prompted: StrengthSweep) -> list[str]:
    """Return the predictions without a prompt and with the strongest, and what the maps explain."""
    first = with_drawable_names(prompted.explanation)
    before, after = prompted.predicted[0], prompted.predicted[-1]
    if before == after:
        return [headline(first, 0), selection_text(first, 0)]
    texts = [
        f"{shorten_text(first.answer_label(answer), 26)} {prompted.share_texts(answer)[index]}"
        for index, answer in ((0, before), (-1, after))
    ]
    strength = f"prediction without prompt → at strength {prompted.strengths[-1]:g}"
    evidence = f"the maps show the evidence for {shorten_text(target_text(first, 0), 26)}"
    return [" → ".join(texts), strength, evidence]


def _colours_text(prompted: StrengthSweep) -> str:
    """Return what the colours of the bias mean; those that it does not have are left out."""
    parts = (
        "yellow: more attention" if bool((prompted.bias > 0).any()) else "",
        "blue: less attention" if bool((prompted.bias < 0).any()) else "",
    )
    return ", ".join(filter(None, parts))


def _draw_bias(prompted: StrengthSweep, picture: Picture) -> NDArray[np.float64]:
    """Return the faded picture with the bias of each patch on top."""
    largest = max(float(prompted.bias.abs().max()), 1e-9)
    strength = (prompted.bias / largest).float()
    resampled = prompted.grid.upsample(strength[None], mode="nearest")[0].numpy()
    rows = np.linspace(0, resampled.shape[0] - 1, picture.shape[0]).round().astype(int)
    columns = np.linspace(0, resampled.shape[1] - 1, picture.shape[1]).round().astype(int)
    resampled = resampled[rows][:, columns]
    colour = np.where(resampled[..., None] > 0, TOWARD, AWAY)
    cover = 0.65 * np.abs(resampled)[..., None]
    return fade_picture(picture, 0.3, 0.8) * (1 - cover) + colour * cover


def _draw_chart(frame: Frame, figure: Figure, prompted: StrengthSweep, column: int) -> None:
    """Draw the probabilities of the leading classes, or the logit of a model with one output."""
    from matplotlib.patheffects import withStroke

    left, top = frame.left(column) + 0.3, frame.top(0)
    axes: Axes = figure.add_axes(frame.box(left, top, frame.panel - 0.35, frame.tall - 0.2))
    names = with_drawable_names(prompted.explanation)
    percent = names.output.in_percent
    values = 100 * prompted.probabilities.numpy() if percent else prompted.logits.double().numpy()
    labels = []
    for colour, number in zip(LINES, prompted.leading()[:MAX_CLASSES], strict=False):
        resampled = values[:, number] if percent else values.reshape(len(values), -1)[:, 0]
        axes.plot(prompted.strengths, resampled, color=colour, lw=1.6)
        peak = int(resampled.argmax())
        if percent and resampled[peak] < 100 * MIN_LABELLED:
            continue  # they are not readable
        side = "left" if peak < len(prompted.strengths) / 2 else "right"
        labels.append((side, float(resampled[peak]), names.answer_label(number), colour))
    for (side, _, name, colour), height in zip(labels, _spread_labels(labels), strict=True):
        axes.annotate(
            shorten_text(name, 22), (0.0 if side == "left" else prompted.strengths[-1], height),
            xytext=(3 if side == "left" else -1, 3), textcoords="offset points", size=6.5,
            color=colour, parse_math=False, ha=side,
            path_effects=[withStroke(linewidth=1.8, foreground="white")],
        )  # fmt: skip
    axes.set(xlim=(0, prompted.strengths[-1]))
    if percent:
        axes.set(ylim=(0, 105))
    axes.set_xlabel("strength", size=7, color=MUTED, labelpad=1)
    axes.set_ylabel(
        "%" if percent else prompted.explanation.output.unit, size=7, color=MUTED, labelpad=1
    )
    axes.tick_params(labelsize=6.5, length=2, colors=MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
        spine.set_linewidth(0.5)


def _spread_labels(labels: list[tuple[str, float, str, str]]) -> list[float]:
    """Return heights of labels at which those of one side do not overlap.

    Examples
    --------
    >>> rows = [("left", 7.4, "a", ""), ("left", 7.0, "b", ""), ("right", 7.0, "c", "")]
    >>> _spread_labels(rows)
    [12.0, 7.0, 7.0]
    """
    heights = [height for _, height, *_ in labels]
    lowest: dict[str, float] = {}
    for index in sorted(range(len(labels)), key=heights.__getitem__):
        side = labels[index][0]
        heights[index] = max(heights[index], lowest.get(side, -float("inf")))
        lowest[side] = heights[index] + LABEL_HEIGHT
    return heights
