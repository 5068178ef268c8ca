"""Measurement of the tokens that the output of a model is read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .frozen import frozen
from .model_call import ModelCall
from .model_layout import ModelLayout, known_layout
from .record import record_call
from .scope import isolated
from .target import output_tensor


def with_readout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None
) -> ModelLayout:
    """Return the layout of `model` with its `readout`, measured once for the current weights."""
    with frozen(model):
        entry = known_layout(model, call, sites)
    weights = tuple((id(weight), weight._version) for weight in model.parameters())
    if entry.layout.readout is None or entry.weights != weights:
        with isolated(layout=True):
            record = record_call(
                model,
                call.few(),
                target=_sum,
                layers=None,
                grad="last",
                sites=sites,
                readout="output",
            )
        entry.layout = replace(entry.layout, readout=(record.readout() > 0).any(dim=0))
        entry.weights = weights
    return entry.layout


def _sum(output: Any) -> Tensor:
    tensor = output_tensor(output)
    return tensor.reshape(len(tensor), -1).sum(dim=1)
