"""Context that puts a model in evaluation mode with frozen parameters, and restores it afterwards.

Dropout would make the recorded attention differ from the recomputed one, and parameters that
require gradients would make every layer keep its input. Several threads may use the context on one
model, or on a part of it, at once: the holders of each module and parameter are counted, and the
last one to exit restores it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .output_watch import watch_output


@contextmanager
def correct_gradients(model: nn.Module) -> Iterator[None]:
    """Correct the gradients through the `BatchNorm2d` layers of a model inside the ``with``."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(_pre_hook) for norm in norms]
    handles += [norm.register_forward_hook(_hook) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pre_hook(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
    if inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad:
        return (_with_batch_stride(inputs[0]), *inputs[1:])
    return None


def _hook(_: nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_with_batch_stride)


def _with_batch_stride(tensor: Tensor) -> Tensor:
    """Return a view of the same memory whose batch axis has the stride of a larger batch."""
    if len(tensor) != 1 or tensor.stride(0) >= tensor[0].numel():
        return tensor
    return tensor.as_strided(tensor.shape, (tensor[0].numel(), *tensor.stride()[1:]))


@dataclass
class _HeldFlag:
    """Flag `training` of a module, or `requires_grad` of a parameter, that is held at False."""

    owner: nn.Module | nn.Parameter
    holders: int = 0

    def set(self, active: bool) -> None:
        if isinstance(self.owner, nn.Module):
            self.owner.training = active
        else:
            self.owner.requires_grad_(active)


_held_flags: dict[int, _HeldFlag] = {}  # by id of the owner, which the entry keeps alive
_lock = threading.Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold `model` in evaluation mode without parameter gradients; restore every flag afterwards.

    Gradients through the model are correct meanwhile, see `batchnorm`.
    """
    keys: list[int] = []
    try:
        with _lock:
            owners: list[nn.Module | nn.Parameter] = [*model.modules(), *model.parameters()]
            for owner in owners:
                active = owner.training if isinstance(owner, nn.Module) else owner.requires_grad
                if active and id(owner) not in _held_flags:
                    _held_flags[id(owner)] = _HeldFlag(owner)
                if id(owner) in _held_flags:
                    _held_flags[id(owner)].holders += 1
                    keys.append(id(owner))
                    _held_flags[id(owner)].set(False)
        # The pass inside the context decides the meaning of the output, see `output_meaning`.
        with correct_gradients(model), watch_output(model):
            yield
    finally:
        with _lock:
            for key in keys:
                _held_flags[key].holders -= 1
                if not _held_flags[key].holders:
                    _held_flags.pop(key).set(True)
