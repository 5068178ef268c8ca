"""Notes of an explanation, which the reader of the map must know, and the names of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
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
    method: Method,
    maps: RelevanceMap,
    images: Images,
    host_values: tuple[list[bool], list[float]],
    about_output: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Return the notes of an explanation, a sentence each; `host_values` are of `read_checked`."""
    p, description = maps.concentration, maps.prediction.target_description
    is_zero, readout = host_values

    def names_where(mask: list[bool]) -> str:
        pairs = zip(images.names, mask, strict=True)
        return ", ".join(name for name, selected in pairs if selected)

    notes = [*images.notes, *maps.notes, *filter(None, about_output)]
    if images.pixels_are_mean:
        notes.append(f"The picture shows the mean of the {images.inputs.shape[1]} channels.")
    if maps.grid.is_partial:
        notes.append(_covered_part_note(maps.grid))
    if description:
        notes.append(f"Explained, in place of a class: {description}.")
    notes += [*maps.record_notes, *_readout_note(readout)]
    if method.uses_keypoints and (uniform := names_where((p == p[:, :1]).all(dim=1).tolist())):
        notes.append(f"{uniform}: no keypoints were used, so {method.uniform_note}.")
    if zero := names_where(is_zero):
        notes.append(f"{zero}: the map is zero; no patch supports the target.")
    return tuple(notes)


def readout_parts(record: AttentionRecord) -> Tensor | None:
    """Return how much each prefix token and, last, all patches contribute to the score: (B, …)."""
    if record.read_from is None:
        return None
    prefix, patches = record.read_from.tensor_split([record.grid.prefix], dim=1)
    return torch.cat([prefix, patches.sum(dim=1, keepdim=True)], dim=1)


def _readout_note(parts: Sequence[float]) -> tuple[str, ...]:
    """Return a note on the tokens that the output is read from; () if they are of one kind.

    Parameters
    ----------
    parts : mean over images of `readout_parts`; empty if unknown
    """
    *of_prefix, on_patches = parts or [0.0]
    shares = [
        f"prefix token {i} ({100 * part:.0f} %)" for i, part in enumerate(of_prefix) if part > 0
    ]
    shares += [f"the patches ({100 * on_patches:.0f} %)"] if on_patches > 0 else []
    if len(shares) <= 1:
        return ()
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
