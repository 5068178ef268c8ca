"""A model held still: evaluation mode and frozen parameters, and afterwards as it was.

Dropout would make the recorded attention another one than the recomputed, and parameters that ask
for gradients would make every layer keep its input. Several threads may hold one model at once:
the first one in notes its state, the last one out puts it back.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn


@dataclass
class _Held:
    training: list[nn.Module]
    learning: list[nn.Parameter]
    holders: int = 0


_held: weakref.WeakKeyDictionary[nn.Module, _Held] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Hold `model` in evaluation mode without parameter gradients; restore every flag after."""
    with _lock:
        held = _held.get(model)
        if held is None:
            held = _Held(
                [module for module in model.modules() if module.training],
                [parameter for parameter in model.parameters() if parameter.requires_grad],
            )
            for module in held.training:
                module.training = False
            for parameter in held.learning:
                parameter.requires_grad_(False)
            _held[model] = held
        held.holders += 1
    try:
        yield
    finally:
        with _lock:
            held.holders -= 1
            if not held.holders:
                del _held[model]
                for module in held.training:
                    module.training = True
                for parameter in held.learning:
                    parameter.requires_grad_(True)
