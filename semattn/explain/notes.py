"""Notes of an explanation: sentences about how the map was made that its reader must know."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..attention import AttentionRecord
from ..grid import PatchGrid
from ..images import Images
from .attribution_request import Maps


class Method(Protocol):
    """The attributes of an explainer that notes depend on."""

    uses_keypoints: bool
    uses_readout: bool
    without_keypoints: str


def notes_of(
    method: Method, maps: Maps, images: Images, about_output: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return what a reader of the map must know, in sentences."""
    taken, p = maps.taken, maps.concentration

    def which(chosen: Tensor) -> str:
        chosen_names = zip(images.names, chosen.tolist(), strict=True)
        return ", ".join(name for name, one in chosen_names if one)

    notes = [*images.notes, *maps.notes, *filter(None, about_output)]
    if images.pixels_are_mean:
        notes.append(f"The picture shows the mean of the {images.inputs.shape[1]} channels.")
    if taken.grid.is_partial:
        notes.append(_seen_part_note(taken.grid))
    if taken.explains:
        notes.append(f"Explained, in place of a class: {taken.explains}.")
    notes += taken.notes
    if method.uses_readout and (read := _readout_note(taken)):
        notes.append(read)
    if method.uses_keypoints and (even := which((p == p[:, :1]).all(dim=1))):
        notes.append(f"No keypoint weighs on the map of {even}: {method.without_keypoints}.")
    if blank := which((maps.patches == 0).all(dim=1)):
        notes.append(f"The map of {blank} is zero: nothing there speaks for the target.")
    return tuple(notes)


def _readout_note(taken: AttentionRecord) -> str:
    """Return a note on the tokens that are read, unless it is one class token or the patches."""
    if taken.read_from is None:
        return ""
    prefix = taken.grid.prefix
    parts = taken.read_from.mean(dim=0)
    read = [number for number in range(prefix) if parts[number] > 0]
    on_patches = float(parts[prefix:].sum())
    if len(read) + (on_patches > 0) <= 1:
        return ""
    shares = [f"prefix token {number} ({100 * float(parts[number]):.0f} %)" for number in read]
    shares += [f"the patches ({100 * on_patches:.0f} %)"] if on_patches > 0 else []
    return f"The answer is read from {' and '.join(shares)} of the last layer."


def _seen_part_note(grid: PatchGrid) -> str:
    rows, columns = grid.seen_part
    height, width = grid.image_size
    return (
        f"The patches cover a part of the {width} x {height} pixels: x {columns.start} to "
        f"{columns.stop - 1}, y {rows.start} to {rows.stop - 1}; the map is 0 elsewhere."
    )
