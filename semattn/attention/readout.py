"""Measurement of the tokens that the output of a model is read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .frozen import quiet
from .model_call import ModelCall
from .model_layout import ModelLayout, known_layout
from .record import record_call
from .scope import apart
from .target import output_tensor


def with_readout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None
) -> ModelLayout:
    """The layout of `model` with its `readout`, measured once for the weights that it has."""
    with quiet(model):
        known = known_layout(model, call, sites)
    weights = tuple((id(one), one._version) for one in model.parameters())
    if known.layout.readout is None or known.weights != weights:
        with apart(layout=True):
            taken = record_call(
                model,
                call.few(),
                target=_sum,
                layers=None,
                grad="last",
                sites=sites,
                readout="output",
            )
        known.layout = replace(known.layout, readout=(taken.readout() > 0).any(dim=0))
        known.weights = weights
    return known.layout


def _sum(output: Any) -> Tensor:
    tensor = output_tensor(output)
    return tensor.reshape(len(tensor), -1).sum(dim=1)
