"""Notes of an explanation, which the reader of the map must know, and the names of its classes."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from ..attention import AttentionRecord
from ..grid import PatchGrid
from ..images import Images
from ..targets import OutputMeaning
from ..utils.class_names import check_names, class_names
from .request import RelevanceMap


class Method(Protocol):
    """The attributes of an explainer that notes depend on."""

    uses_keypoints: bool
    uniform_note: str


def map_notes(
    method: Method, maps: RelevanceMap, images: Images, about_output: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Return the notes of an explanation, one sentence each."""
    p, description = maps.concentration, maps.prediction.target_description

    def names_where(mask: Tensor) -> str:
        pairs = zip(images.names, mask.tolist(), strict=True)
        return ", ".join(name for name, selected in pairs if selected)

    notes = [*images.notes, *maps.notes, *filter(None, about_output)]
    if images.pixels_are_mean:
        notes.append(f"The picture shows the mean of the {images.inputs.shape[1]} channels.")
    if maps.grid.is_partial:
        notes.append(_covered_part_note(maps.grid))
    if description:
        notes.append(f"Explained, in place of a class: {description}.")
    notes += maps.record_notes
    if method.uses_keypoints and (uniform := names_where((p == p[:, :1]).all(dim=1))):
        notes.append(f"{uniform}: no keypoints were used, so {method.uniform_note}.")
    if zero := names_where((maps.patches == 0).all(dim=1)):
        notes.append(f"{zero}: the map is zero; no patch supports the target.")
    return tuple(notes)


def readout_note(record: AttentionRecord) -> tuple[str, ...]:
    """Return a note on the tokens that the output is read from; () if they are of one kind."""
    if record.read_from is None:
        return ()
    prefix = record.grid.prefix
    parts = record.read_from.mean(dim=0)
    read_prefix = [number for number in range(prefix) if parts[number] > 0]
    on_patches = float(parts[prefix:].sum())
    if len(read_prefix) + (on_patches > 0) <= 1:
        return ()
    shares = [f"prefix token {i} ({100 * float(parts[i]):.0f} %)" for i in read_prefix]
    shares += [f"the patches ({100 * on_patches:.0f} %)"] if on_patches > 0 else []
    return (f"The model's output is read from {' and '.join(shares)} of the last layer.",)


def _covered_part_note(grid: PatchGrid) -> str:
    rows, columns = grid.visible_part
    height, width = grid.image_size
    return (
        f"The patches cover a part of the {width} x {height} pixels: x {columns.start} to "
        f"{columns.stop - 1}, y {rows.start} to {rows.stop - 1}; the map is 0 elsewhere."
    )


def class_names_of(
    model: nn.Module, logits: Tensor, output: OutputMeaning
) -> tuple[tuple[str, ...] | None, str]:
    """Return the class names of the outputs, and a note if the names in the config do not fit.

    Raises
    ------
    SemattnError
        If the number of names in `model.classes` differs from the number of outputs.
    """
    names = class_names(model)
    if names is None or logits.ndim > 2 or not output.has_answers:
        return names, ""
    outputs = 1 if logits.ndim == 1 else logits.shape[1]
    if getattr(model, "classes", None) is not None:
        check_names(names, outputs, binary=output.is_binary(outputs))
    elif len(names) != outputs and not (output.is_binary(outputs) and len(names) == 2):
        return None, (
            f"Classes are shown by number: the model's config names {len(names)}, "
            f"its head has {outputs} outputs."
        )
    return names, ""
