"""A model held still: evaluation mode and frozen parameters, and afterwards as it was.

Dropout would make the recorded attention another one than the recomputed, and parameters that ask
for gradients would make every layer keep its input. Several threads may hold one model, or a part
of it, at once: holders are counted for each module and parameter, and the last one out restores.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from .batchnorm import right_gradients
from .output_watch import watch_output


@dataclass
class _Held:
    what: nn.Module | nn.Parameter
    holders: int = 0

    def set(self, active: bool) -> None:
        if isinstance(self.what, nn.Module):
            self.what.training = active
        else:
            self.what.requires_grad_(active)


_held: dict[int, _Held] = {}  # by identity; what is held is alive
_lock = threading.Lock()


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Hold `model` in evaluation mode without parameter gradients; restore every flag after.

    Gradients that pass it meanwhile are right, see `batchnorm`.
    """
    mine: list[int] = []
    try:
        with _lock:
            everything: list[nn.Module | nn.Parameter] = [*model.modules(), *model.parameters()]
            for what in everything:
                active = what.training if isinstance(what, nn.Module) else what.requires_grad
                if active and id(what) not in _held:
                    _held[id(what)] = _Held(what)
                if id(what) in _held:
                    _held[id(what)].holders += 1
                    mine.append(id(what))
                    _held[id(what)].set(False)
        # The pass that runs here decides what the output is, see `output_meaning`.
        with right_gradients(model), watch_output(model):
            yield
    finally:
        with _lock:
            for key in mine:
                _held[key].holders -= 1
                if not _held[key].holders:
                    _held.pop(key).set(True)
