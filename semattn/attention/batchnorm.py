"""Correct gradients of `BatchNorm2d` for a single image.

With one image in the batch, PyTorch (2.15, on a CPU) mistakes tokens that were reshaped to a
picture for channels-last memory, because it ignores the stride of an axis of length one. The
gradient that it returns is then wrong; LeViT's stem is an example. This module sets that stride to
the value that it has for several images. It changes and copies no values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


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
