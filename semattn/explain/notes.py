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
    starts_at_readout: bool
    uniform_note: str


def notes_of(
    method: Method, maps: Maps, images: Images, about_output: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the notes of an explanation, one sentence each."""
    record, p = maps.record, maps.concentration

    def names_where(mask: Tensor) -> str:
        pairs = zip(images.names, mask.tolist(), strict=True)
        return ", ".join(name for name, selected in pairs if selected)

    notes = [*images.notes, *maps.notes, *filter(None, about_output)]
    if images.pixels_are_mean:
        notes.append(f"The picture shows the mean of the {images.inputs.shape[1]} channels.")
    if record.grid.is_partial:
        notes.append(_covered_part_note(record.grid))
    if record.target_description:
        notes.append(f"Explained, in place of a class: {record.target_description}.")
    notes += record.notes
    if method.starts_at_readout and (readout_note := _readout_note(record)):
        notes.append(readout_note)
    if method.uses_keypoints and (uniform := names_where((p == p[:, :1]).all(dim=1))):
        notes.append(f"{uniform}: no keypoints were used, so {method.uniform_note}.")
    if zero := names_where((maps.patches == 0).all(dim=1)):
        notes.append(f"{zero}: the map is zero; no patch supports the target.")
    return tuple(notes)


def _readout_note(record: AttentionRecord) -> str:
    """Return a note on the tokens that the output is read from, unless it is one kind of token."""
    if record.read_from is None:
        return ""
    prefix = record.grid.prefix
    parts = record.read_from.mean(dim=0)
    read_prefix = [number for number in range(prefix) if parts[number] > 0]
    on_patches = float(parts[prefix:].sum())
    if len(read_prefix) + (on_patches > 0) <= 1:
        return ""
    shares = [f"prefix token {i} ({100 * float(parts[i]):.0f} %)" for i in read_prefix]
    shares += [f"the patches ({100 * on_patches:.0f} %)"] if on_patches > 0 else []
    return f"The model's output is read from {' and '.join(shares)} of the last layer."


def _covered_part_note(grid: PatchGrid) -> str:
    rows, columns = grid.visible_part
    height, width = grid.image_size
    return (
        f"The patches cover a part of the {width} x {height} pixels: x {columns.start} to "
        f"{columns.stop - 1}, y {rows.start} to {rows.stop - 1}; the map is 0 elsewhere."
    )
