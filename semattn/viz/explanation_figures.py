"""Figures of one image: an explanation with its intermediate steps, and a comparison of methods."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from .canvas import DENSITY, EMPTY, MAP, MUTED, default_settings, fade_picture
from .overlay import Picture, is_signed, overlay, select_picture
from .panels import Frame, draw_concentration, draw_grid, draw_keypoints
from .texts import (
    count_text,
    density_text,
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

    from ..explain import Explanation
    from ..explain.comparison import Comparison, MethodResult


PANEL = 2.05  # inches, of a comparison
LETTER_WIDTH = 0.062  # inches, approximate width of a small letter
THIN_LINES = 0.65  # line width relative to figures with larger panels
MAX_COLUMNS, MIN_COLUMNS = 6, 4  # of a comparison


@default_settings()
def figure(explanation: Explanation, index: int = 0, *, backdrop: Picture | None = None) -> Figure:
    """Draw the image, its keypoints, their concentration and the map in four panels.

    The panels share their coordinates, so a patch has the same position in each. Circles have the
    diameters of the keypoints; the concentration is relative to its average (P p). Of a signed
    map, the positive part is drawn, and the caption says so.

    Parameters
    ----------
    explanation, index, backdrop : as for `overlay`

    Raises
    ------
    ShapeError
        See `overlay`.
    """
    explanation = with_drawable_names(explanation)
    picture = select_picture(explanation, index, backdrop)
    frame = Frame(explanation.grid.image_size, columns=4)
    figure = frame.empty()
    panels = [frame.axes(figure, 0, column) for column in range(4)]

    frame.show(panels[0], picture)
    frame.show(panels[1], fade_picture(picture, 0.0, 0.62))
    draw_grid(panels[1], explanation.grid)
    draw_keypoints(panels[1], explanation.keypoints[index])
    frame.show(panels[2], fade_picture(picture, 0.0, 0.62))
    highest = draw_concentration(panels[2], explanation, index)
    draw_grid(panels[2], explanation.grid)
    frame.show(panels[3], overlay(explanation, index, backdrop=picture))

    method = explanation.manifest.get("method")
    details = [selection_text(explanation, index), method, model_name(explanation)]
    frame.headline(figure, headline(explanation, index), "  ·  ".join(filter(None, details)))
    for column, (title, detail) in enumerate(_captions(explanation, index)):
        frame.caption(figure, (0, column), title, detail)
    frame.bar(figure, 2, DENSITY, ("0", f"{highest:.1f} × average"))
    frame.bar(figure, 3, MAP, ("low", "high, relative to this picture"))
    frame.note(figure, 0, shorten_text("  ·  ".join(explanation.notes), 130))
    return figure


def _captions(explanation: Explanation, index: int) -> tuple[tuple[str, str], ...]:
    """Return a title and a line for each panel."""
    settings = explanation.manifest.get("parameters", {})
    (height, width), (h, w) = explanation.grid.image_size, explanation.grid.shape
    keypoints = count_text(len(explanation.keypoints[index]), "keypoint")
    signed = is_signed(explanation, index)
    evidence = f"evidence for {shorten_text(target_text(explanation, index), 24 if signed else 40)}"
    evidence += ", positive part" if signed else ""
    return (
        ("Image", f"{width} × {height} pixels, as the model sees it"),
        ("Keypoints", f"{keypoints} on {w} × {h} patches; circle size = scale"),
        ("Semantic concentration", f"{density_text(settings)}; 1 = the average patch"),
        ("Attribution", evidence),
    )


@default_settings()
def comparison(compared: Comparison, *, backdrop: Picture | None = None) -> Figure:
    """Draw the image, its keypoints, and the map of each method as `overlay` draws it.

    The caption of each map shows its sensitivity to the target and its computation time. Each map
    has its own scale, from its lowest to its highest values. If a method refused the model, its
    panel shows the reason. Of signed maps, the positive part is drawn, and a line below the panels
    lists them.

    Parameters
    ----------
    compared : result of `semattn.compare`
    backdrop : as for `overlay`

    Raises
    ------
    ShapeError
        See `overlay`.
    """
    first = with_drawable_names(compared.explanation)
    picture = select_picture(first, 0, backdrop)
    n_columns = columns(2 + len(compared.rows))
    notes = _notes(compared, first, (n_columns - 1 or 1) * PANEL)
    frame = Frame(
        first.grid.image_size,
        columns=n_columns,
        rows=-(-(2 + len(compared.rows)) // n_columns),
        panel=PANEL,
        foot=0.35 + 0.17 * len(notes),
    )
    figure = frame.empty()
    positions = [divmod(number, n_columns) for number in range(2 + len(compared.rows))]
    panels = [frame.axes(figure, *place) for place in positions]
    height, width = first.grid.image_size
    keypoints = first.keypoints[0]
    captions = [
        ("Image", f"{width} × {height} pixels, as the model sees it"),
        ("Keypoints", f"{len(keypoints)} by {keypoints.detector}; circle size = scale"),
    ]
    frame.show(panels[0], picture)
    frame.show(panels[1], fade_picture(picture, 0.0, 0.62))
    draw_grid(panels[1], first.grid, THIN_LINES)
    draw_keypoints(panels[1], keypoints, THIN_LINES)
    for axes, row in zip(panels[2:], compared.rows, strict=True):
        if row.explanation is None:
            _draw_refusal(axes, frame, row.refusal)
        else:
            frame.show(axes, overlay(row.explanation, 0, backdrop=picture))
        captions.append((row.method, _cost_text(row)))
    for place, (title, detail) in zip(positions, captions, strict=True):
        frame.caption(figure, place, title, detail)
    details = [
        selection_text(first, 0),
        count_text(len(compared.rows), "method"),
        model_name(first),
    ]
    frame.headline(figure, headline(first, 0, 12 * n_columns), "  ·  ".join(filter(None, details)))
    for number, note in enumerate(notes):
        frame.note(figure, number, note)
    frame.bar(figure, n_columns - 1, MAP, ("low", "high in each map"))
    return figure


def columns(panels: int) -> int:
    """Return the number of columns that leaves the fewest panels empty; at a tie, the largest.

    Examples
    --------
    >>> columns(17), columns(12), columns(8), columns(3)
    (6, 6, 4, 3)
    """
    if panels <= MAX_COLUMNS:
        return panels
    return min(range(MAX_COLUMNS, MIN_COLUMNS - 1, -1), key=lambda candidate: -panels % candidate)


def _cost_text(row: MethodResult) -> str:
    if row.explanation is None:
        return "refused"
    sensitivity = "–" if row.sensitivity is None else f"{row.sensitivity:.2f}"
    seconds = row.seconds or 0.0
    return f"sensitivity {sensitivity}  ·  {seconds:.{2 if seconds < 10 else 0}f} s"


def _notes(compared: Comparison, first: Explanation, width: float) -> list[str]:
    """Return the lines below the panels, wrapped to `width` inches, left of the colour scale."""
    notes = []
    if compared.other is not None:
        name = shorten_text(first.label(compared.other), 40)
        notes.append(
            f"Sensitivity: share of the map that moves when {name} is explained instead, "
            "from 0 (none) to 1 (all)."
        )
    signed = [
        row.method
        for row in compared.rows
        if row.explanation is not None and is_signed(row.explanation)
    ]
    if signed:
        notes.append(f"Positive part of signed maps: {', '.join(signed)}.")
    notes += compared.notes
    return [line for note in notes for line in wrap(note, int(width / LETTER_WIDTH))]


def _draw_refusal(axes: Axes, frame: Frame, reason: str) -> None:
    """Draw the reason for a missing map in place of the map."""
    frame.show(axes, np.full((1, 1, 3), _grey(), dtype=np.uint8))
    lines = wrap(reason, 34, break_on_hyphens=False)
    room = max(int(frame.tall * 72 / 7.5 / 1.3) - 1, 1)
    if len(lines) > room:
        lines = [*lines[: room - 1], lines[room - 1][:33] + "…"]
    axes.text(
        0.5, 0.5, "\n".join(lines), transform=axes.transAxes, ha="center", va="center",
        size=6.5, color=MUTED, linespacing=1.3, parse_math=False,
    )  # fmt: skip


def _grey() -> tuple[int, ...]:
    return tuple(bytes.fromhex(EMPTY[1:]))
