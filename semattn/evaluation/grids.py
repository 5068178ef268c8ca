"""The grid of a model's patches, looked up once for images of a size."""

from __future__ import annotations

import weakref

from torch import Tensor, nn

from ..attention import record
from ..grid import PatchGrid

_KNOWN: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, ...], PatchGrid]] = (
    weakref.WeakKeyDictionary()
)


def grid_of(model: nn.Module, inputs: Tensor) -> PatchGrid:
    """The patches that `semattn.record` sees in `inputs` (B, C, H, W)."""
    known = _KNOWN.setdefault(model, {})
    size = tuple(inputs.shape[1:])
    if size not in known:
        known[size] = record(model, inputs[:1], grad=False).grid
    return known[size]
