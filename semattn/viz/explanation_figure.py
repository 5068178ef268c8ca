"""Figure of one explanation with its intermediate steps."""

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
    """Draw the image, its keypoints, their concentration and the map in four panels.

    The panels share their coordinates, so a patch has the same position in each. Circles have the
    diameters of the keypoints; the concentration is relative to a uniform one (P p). Of a signed
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
    picture = picture_of(explanation, index, backdrop)
    frame = Frame(explanation.grid.image_size, columns=4)
    figure = frame.empty()
    panels = [frame.axes(figure, 0, column) for column in range(4)]

    frame.show(panels[0], picture)
    frame.show(panels[1], faded(picture, 0.0, 0.62))
    draw_grid(panels[1], explanation.grid)
    draw_keypoints(panels[1], explanation.keypoints[index])
    frame.show(panels[2], faded(picture, 0.0, 0.62))
    highest = draw_concentration(panels[2], explanation, index)
    draw_grid(panels[2], explanation.grid)
    frame.show(panels[3], overlay(explanation, index, backdrop=picture))

    method = explanation.manifest.get("method")
    details = [how_chosen(explanation, index), method, model_name(explanation)]
    frame.headline(figure, headline(explanation, index), "  ·  ".join(filter(None, details)))
    for column, (title, detail) in enumerate(_captions(explanation, index)):
        frame.caption(figure, (0, column), title, detail)
    frame.bar(figure, 2, DENSITY, ("0", f"{highest:.1f} × uniform"))
    frame.bar(figure, 3, MAP, ("low", "high"))
    frame.note(figure, 0, cut("  ·  ".join(explanation.notes), 130))
    return figure


def _captions(explanation: Explanation, index: int) -> tuple[tuple[str, str], ...]:
    """Return a title and a line for each panel."""
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
