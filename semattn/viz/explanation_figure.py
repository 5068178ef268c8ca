"""One explanation, and what led to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .canvas import default_settings
from .frame import Frame
from .marks import draw_concentration, draw_grid, draw_keypoints
from .overlay import Picture, is_signed, overlay, picture_of
from .style import DENSITY, MAP, faded
from .words import count, cut, explained, headline, how_chosen, model_name, with_drawable_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..explain import Explanation


@default_settings()
def figure(explanation: Explanation, index: int = 0, *, backdrop: Picture | None = None) -> Figure:
    """What the map was made of, side by side: image, keypoints, concentration, map.

    The four panels share one frame, so that a patch is at the same place in each. Circles have
    the diameters of the keypoints; the concentration is in multiples of an even one (P p). Of a
    signed map the positive part is drawn, and the figure says so.

    Parameters
    ----------
    explanation, index, backdrop : as for `overlay`

    Raises
    ------
    ShapeError
        As `overlay` does.
    """
    explanation = with_drawable_names(explanation)
    picture = picture_of(explanation, index, backdrop)
    frame = Frame(explanation.grid.image_size, columns=4)
    drawn = frame.empty()
    panels = [frame.axes(drawn, 0, column) for column in range(4)]

    frame.show(panels[0], picture)
    frame.show(panels[1], faded(picture, 0.0, 0.62))
    draw_grid(panels[1], explanation.grid)
    draw_keypoints(panels[1], explanation.keypoints[index])
    frame.show(panels[2], faded(picture, 0.0, 0.62))
    highest = draw_concentration(panels[2], explanation, index)
    draw_grid(panels[2], explanation.grid)
    frame.show(panels[3], overlay(explanation, index, backdrop=picture))

    method = explanation.manifest.get("method")
    beside = [how_chosen(explanation, index), method, model_name(explanation)]
    frame.headline(drawn, headline(explanation, index), "  ·  ".join(filter(None, beside)))
    for column, (title, detail) in enumerate(_captions(explanation, index)):
        frame.caption(drawn, (0, column), title, detail)
    frame.bar(drawn, 2, DENSITY, ("0", f"{highest:.1f} × even"))
    frame.bar(drawn, 3, MAP, ("low", "high"))
    frame.note(drawn, 0, cut("  ·  ".join(explanation.notes), 130))
    return drawn


def _captions(explanation: Explanation, index: int) -> tuple[tuple[str, str], ...]:
    """A title and a line for each panel."""
    settings = explanation.manifest.get("parameters", {})
    (height, width), (h, w) = explanation.grid.image_size, explanation.grid.shape
    keypoints = count(len(explanation.keypoints[index]), "keypoint")
    signed = is_signed(explanation, index)
    evidence = f"evidence for {cut(explained(explanation, index), 24 if signed else 40)}"
    evidence += ", positive part" if signed else ""
    return (
        ("Image", f"{width} × {height} pixels, as the model sees it"),
        ("Keypoints", f"{keypoints} on {w} × {h} patches"),
        ("Semantic concentration", f"share of each patch ({settings.get('density', 'count')})"),
        ("Attribution", evidence),
    )
