"""Figure of the recurring marks of a data set: one row per mark."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from .canvas import INK, MUTED, default_settings, drawable_name, new_figure
from .outlines import draw_regions
from .panels import MARGIN, Frame
from .texts import (
    count_text,
    format_p,
    format_percent,
    mark_frequency,
    marks_outcome,
    mean_picture_text,
    shorten_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..spurious import Mark, MarkDiscovery

ROWS, EXAMPLES = 4, 6
PANEL = 1.75  # inches
LISTED = 8  # marks of the table, if none is significant


@default_settings()
def marks(discovery: MarkDiscovery) -> Figure:
    """Draw the first significant marks: the mean picture of each, and images that show it.

    In each image, the places of the mark are outlined. The mean picture is the average of the mark
    over its images, in its own frame. Without classes, no mark is significant, and the first marks
    are drawn.

    Parameters
    ----------
    discovery : result of `semattn.find_marks`
    """
    listed = marks_to_draw(discovery)
    if not listed:
        return _draw_no_marks(discovery)
    frame = Frame((1, 1), columns=1 + EXAMPLES, rows=len(listed[:ROWS]), panel=PANEL, foot=0.25)
    figure = frame.empty()
    n_more = len(listed) - ROWS
    more = f"{n_more} more in the result files" if n_more > 0 else ""
    frame.headline(figure, "Recurring marks", _details(discovery, marks_outcome(discovery), more))
    for row, mark in enumerate(listed[:ROWS]):
        _draw_row(frame, figure, row, mark)
    return figure


def marks_to_draw(discovery: MarkDiscovery) -> tuple[Mark, ...]:
    """Return the significant marks; all marks of images without classes."""
    return discovery.significant if len(discovery.classes) > 1 else discovery.marks


def _draw_row(frame: Frame, figure: Figure, row: int, mark: Mark) -> None:
    lower_edge = frame.inscribe(figure, row, 0, mark.picture).get_position().y0
    below = frame.inches[1] * (1 - lower_edge) + 0.13
    frame.line(figure, frame.left(0), below, mean_picture_text(mark))
    for column, example in enumerate(mark.examples[:EXAMPLES], 1):
        axes = frame.inscribe(figure, row, column, example.pixels)
        draw_regions(axes, example.regions)
    name = shorten_text(drawable_name(mark.name, mark.target), 60) if mark.name else "mark"
    frame.caption(figure, (row, 0), f"{row + 1}  {name}", mark_frequency(mark))


def _draw_no_marks(discovery: MarkDiscovery) -> Figure:
    """Draw a page for a search without significant marks, with a table of the marks."""
    listed = discovery.marks[:LISTED]
    outcome = marks_outcome(discovery)
    sentence = wrap(outcome[:1].upper() + outcome[1:] + ".", 118)
    wide, line = 9.6, 0.26
    top = 1.30 + 0.19 * len(sentence)
    figure = new_figure(wide, top + line * len(listed))

    def write(x: float, below: float, text: str, size: float = 8.5, color: str = INK) -> None:
        figure.text(
            x / wide, 1 - below / figure.get_figheight(), text, size=size, color=color,
            parse_math=False, weight="bold" if size > 10 else "normal",
        )  # fmt: skip

    write(MARGIN, 0.45, "No significant mark" if listed else "No recurring mark", size=15)
    write(MARGIN, 0.68, _details(discovery), size=8, color=MUTED)
    for number, part in enumerate(sentence):
        write(MARGIN, 1.05 + 0.19 * number, part)
    if not listed:
        return figure
    rows = [("class", "images", "in class", "in others", "p")]
    rows += [
        (shorten_text(drawable_name(mark.name, mark.target), 48), str(mark.images),
         format_percent(mark.inside), format_percent(mark.outside), format_p(mark.p))
        for mark in listed
    ]  # fmt: skip
    for number, cells in enumerate(rows):
        for x, cell in zip((MARGIN, 4.0, 5.0, 6.0, 7.0), cells, strict=True):
            style = (7.5, MUTED) if number == 0 else (8.5, INK)
            write(x, top - 0.15 + line * number, cell, *style)
    return figure


def _details(discovery: MarkDiscovery, *more: str) -> str:
    """Return a line on the outcome and the extent of the search."""
    n_classes = len(discovery.classes)
    images = count_text(discovery.images, "image")
    parts = (
        *more[:1],
        f"{images} of {n_classes} classes" if n_classes > 1 else images,
        f"{len(discovery.skipped)} skipped" if discovery.skipped else "",
        *more[1:],
    )
    return "  ·  ".join(filter(None, parts))
