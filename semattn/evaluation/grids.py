"""Patch grid of a model, recorded once per image size."""

from __future__ import annotations

import weakref

from torch import Tensor, nn

from ..attention import record
from ..grid import PatchGrid

_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], PatchGrid]] = (
    weakref.WeakKeyDictionary()
)


def grid_of(model: nn.Module, inputs: Tensor) -> PatchGrid:
    """Return the patch grid that `semattn.record` finds for `inputs` (B, C, H, W)."""
    grids = _KNOWN.setdefault(model, {})
    size = tuple(inputs.shape[1:])
    if size not in grids:
        grids[size] = record(model, inputs[:1], grad=False).grid
    return grids[size]
