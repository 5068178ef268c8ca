"""Many explanations of one image, side by side."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np

from .canvas import default_settings
from .frame import Frame
from .marks import draw_grid, draw_keypoints
from .overlay import Picture, is_signed, overlay, picture_of
from .style import EMPTY, MAP, MUTED, faded
from .words import count, cut, headline, how_chosen, model_name, with_drawable_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..explain import Explanation
    from ..explain.comparison import Compared, Comparison

PANEL = 2.05  # inches
LETTER = 0.062  # inches, of the small print, about
THIN = 0.65  # of the lines in a figure of larger panels
MOST, LEAST = 6, 4  # columns


@default_settings()
def comparison(compared: Comparison, *, backdrop: Picture | None = None) -> Figure:
    """The image, its keypoints, and each method's map, drawn as `overlay` draws it.

    Over each map: how much of it moves with the target, and how long it took. Each map has its own
    scale, from its lowest to its highest values. Where a method refused, its reason stands. Of
    signed maps the positive part is drawn, and a line below says of which.

    Parameters
    ----------
    compared : what `semattn.compare` returned
    backdrop : as for `overlay`

    Raises
    ------
    ShapeError
        As `overlay` does.
    """
    first = with_drawable_names(compared.explanation)
    picture = picture_of(first, 0, backdrop)
    places = columns(2 + len(compared.rows))
    notes = _notes(compared, first, (places - 1 or 1) * PANEL)
    frame = Frame(
        first.grid.image_size,
        columns=places,
        rows=-(-(2 + len(compared.rows)) // places),
        panel=PANEL,
        foot=0.35 + 0.17 * len(notes),
    )
    drawn = frame.empty()
    at = [divmod(number, places) for number in range(2 + len(compared.rows))]
    panels = [frame.axes(drawn, *place) for place in at]
    height, width = first.grid.image_size
    keypoints = first.keypoints[0]
    captions = [
        ("Image", f"{width} × {height} pixels, as the model sees it"),
        ("Keypoints", f"{len(keypoints)} by {keypoints.detector}"),
    ]
    frame.show(panels[0], picture)
    frame.show(panels[1], faded(picture, 0.0, 0.62))
    draw_grid(panels[1], first.grid, THIN)
    draw_keypoints(panels[1], keypoints, THIN)
    for axes, row in zip(panels[2:], compared.rows, strict=True):
        if row.explanation is None:
            _draw_refusal(axes, frame, row.refusal)
        else:
            frame.show(axes, overlay(row.explanation, 0, backdrop=picture))
        captions.append((row.method, _measured(row)))
    for place, (title, detail) in zip(at, captions, strict=True):
        frame.caption(drawn, place, title, detail)
    beside = [how_chosen(first, 0), count(len(compared.rows), "method"), model_name(first)]
    frame.headline(drawn, headline(first, 0, 12 * places), "  ·  ".join(filter(None, beside)))
    for number, note in enumerate(notes):
        frame.note(drawn, number, note)
    frame.bar(drawn, places - 1, MAP, ("low", "high"))
    return drawn


def columns(panels: int) -> int:
    """How many columns leave the fewest places empty; the more, the better.

    Examples
    --------
    >>> columns(17), columns(12), columns(8), columns(3)
    (6, 6, 4, 3)
    """
    if panels <= MOST:
        return panels
    return min(range(MOST, LEAST - 1, -1), key=lambda many: -panels % many)


def _measured(row: Compared) -> str:
    if row.explanation is None:
        return "refused"
    moves = "–" if row.sensitivity is None else f"{row.sensitivity:.2f}"
    took = row.seconds or 0.0
    return f"sensitivity {moves}  ·  {took:.{2 if took < 10 else 0}f} s"


def _notes(compared: Comparison, first: Explanation, width: float) -> list[str]:
    """The lines below, so many inches wide, which is short enough to stand beside the scale."""
    notes = []
    if compared.other is not None:
        name = cut(first.label(compared.other), 40)
        notes.append(
            f"Sensitivity: how much of the map moves when {name} is explained instead, "
            "from 0 (nothing) to 1 (all of it)."
        )
    signed = [
        row.method
        for row in compared.rows
        if row.explanation is not None and is_signed(row.explanation)
    ]
    if signed:
        notes.append(f"Positive part of signed maps: {', '.join(signed)}.")
    notes += compared.notes
    return [line for note in notes for line in wrap(note, int(width / LETTER))]


def _draw_refusal(axes: Axes, frame: Frame, reason: str) -> None:
    """Why there is no map, in the place of the map."""
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
