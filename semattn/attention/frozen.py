"""Frozen models, and the gradients through them.

Dropout would make the recorded attention differ from the recomputed one, and parameters that
require gradients would make every layer keep its input. Several threads may use `frozen` on one
model, or on a part of it, at once: the holders of each module and parameter are counted, and the
last one to exit restores it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedModelError
from .output_watch import watch_output

# Scales of a float16 score against underflow and overflow of its gradients; exact powers of two.
_FLOAT16_SCALES = (2.0**10, 1.0, 2.0**-10)


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

    Gradients through the model are correct meanwhile, see `correct_batchnorm_gradients`.
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
        with correct_batchnorm_gradients(model), watch_output(model):
            yield
    finally:
        with _lock:
            for key in keys:
                _held_flags[key].holders -= 1
                if not _held_flags[key].holders:
                    _held_flags.pop(key).set(True)


def gradients_of(
    scores: Tensor,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    name: str,
    *,
    retain_graph: bool = False,
) -> list[Tensor | None]:
    """Return the gradients of the sum of `scores`; None for a tensor that it does not depend on.

    Parameters
    ----------
    dtype : dtype of the model's output; float16 scores are scaled, and their gradients are float32
    name : name of what is differentiated, for the error

    Raises
    ------
    UnsupportedModelError
        For NaN or infinity in a gradient.
    """
    scales = _FLOAT16_SCALES if dtype == torch.float16 else (1.0,)
    for scale in scales:
        gradients = torch.autograd.grad(
            scores.sum() * scale,
            tensors,
            allow_unused=True,
            retain_graph=retain_graph or scale != scales[-1],
        )
        if all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
            break
    else:
        raise UnsupportedModelError(
            f"{name}: expected finite gradients, got NaN or infinity — "
            "check the weights and the input, or run the model in float32"
        )
    return [
        gradient
        if gradient is None or scale == 1.0
        else gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / scale
        for gradient in gradients
    ]


class KeepGradients(TorchFunctionMode):
    """Function mode in which `torch.no_grad` and `detach` inside a model do not stop gradients."""

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if func is Tensor.detach:
            return args[0].view_as(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def correct_batchnorm_gradients(model: nn.Module) -> Iterator[None]:
    """Correct the gradients through the `BatchNorm2d` layers of a model inside the ``with``.

    With one image in the batch, PyTorch (2.15, on a CPU) mistakes tokens that were reshaped to a
    picture for channels-last memory, because it ignores the stride of an axis of length one. The
    gradient that it returns is then wrong; LeViT's stem is an example. The hooks set that stride to
    the value that it has for several images. They change and copy no values.
    """
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
