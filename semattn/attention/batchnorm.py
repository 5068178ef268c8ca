"""Right gradients of `BatchNorm2d` for a single image.

PyTorch (2.15, on a CPU) takes tokens that were reshaped to a picture, with one image in the batch,
for channels that come last, because the stride of an axis of length one is not looked at; the
gradient it then returns is wrong. LeViT's stem is such a place. Here that stride is set to what it
would be of several images; no number is touched, nor copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def right_gradients(model: nn.Module) -> Iterator[None]:
    """Inside the ``with``, gradients through the model's `BatchNorm2d` are those of its formula."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [one.register_forward_pre_hook(_enter) for one in norms]
    handles += [one.register_forward_hook(_leave) for one in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
    if inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad:
        return (_straight(inputs[0]), *inputs[1:])
    return None


def _leave(_: nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_straight)


def _straight(one: Tensor) -> Tensor:
    """The same numbers in the same order in memory; the stride of a single image as of several."""
    if len(one) != 1 or one.stride(0) >= one[0].numel():
        return one
    return one.as_strided(one.shape, (one[0].numel(), *one.stride()[1:]))
