"""Content of the page about the recurring marks of a data set.

Pictures are small JPEGs; outlines are pixels of the original image. Texts are shared with
`semattn.viz`, so figure, page and command agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..utils.text import to_json_value
from ..viz.marks_figure import marks_to_draw
from ..viz.texts import mark_frequency, marks_outcome
from .thumbnails import ROOM, mark_pictures, pictures_size

if TYPE_CHECKING:
    from ..spurious import Mark, MarkDiscovery

FILE = "marks.npz"  # file that contains the pictures that are left out


def about_marks(discovery: MarkDiscovery) -> dict[str, Any]:
    """Return the marks with their pictures, the marks that are not significant, and skipped files.

    Marks whose pictures exceed `ROOM` have none.
    """
    shown = marks_to_draw(discovery)
    marks, room = [], ROOM
    for mark in shown:
        entry = _mark(mark)
        pictures = mark_pictures(mark)
        size = pictures_size(pictures)
        if size <= room:
            room -= size
            entry |= pictures
        marks.append(entry)
    summary = discovery.summary()
    keys = ("images", "classes", "alpha", "skipped", "notes", "manifest")
    content: dict[str, Any] = to_json_value(
        {name: summary[name] for name in keys}
        | {"outcome": marks_outcome(discovery), "marks": marks, "file": FILE,
           "others": [_mark(mark) for mark in discovery.marks if mark not in shown]}
    )  # fmt: skip
    return content


def _mark(mark: Mark) -> dict[str, Any]:
    fields = mark.summary() | {"frequency": mark_frequency(mark), "picture": "", "examples": []}
    fields.pop("image_names", None)  # may be thousands; the page does not list them
    return fields
