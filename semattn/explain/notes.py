"""Notes of an explanation: sentences about how the map was made that its reader must know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..grid import PatchGrid
from ..images import Images

if TYPE_CHECKING:
    from .base import Explainer, Maps


def notes_of(
    method: Explainer, maps: Maps, images: Images, about_output: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return what a reader of the map must know, in sentences."""
    taken, p = maps.taken, maps.concentration

    def which(chosen: Tensor) -> str:
        chosen_names = zip(images.names, chosen.tolist(), strict=True)
        return ", ".join(name for name, one in chosen_names if one)

    notes = [*maps.notes, *filter(None, about_output)]
    if images.pixels_are_mean:
        notes.append(f"The picture shows the mean of the {images.inputs.shape[1]} channels.")
    if taken.grid.is_partial:
        notes.append(_seen_part_note(taken.grid))
    if taken.explains:
        notes.append(f"Explained, in place of a class: {taken.explains}.")
    notes += taken.notes
    if method.uses_keypoints and (even := which((p == p[:, :1]).all(dim=1))):
        notes.append(f"No keypoint weighs on the map of {even}: {method.without_keypoints}.")
    if blank := which((maps.patches == 0).all(dim=1)):
        notes.append(f"The map of {blank} is zero: nothing there speaks for the target.")
    return tuple(notes)


def _seen_part_note(grid: PatchGrid) -> str:
    rows, columns = grid.seen_part
    height, width = grid.image_size
    return (
        f"The patches cover a part of the {width} x {height} pixels: x {columns.start} to "
        f"{columns.stop - 1}, y {rows.start} to {rows.stop - 1}; the map is 0 elsewhere."
    )
