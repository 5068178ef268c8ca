"""Functions whose gradient is given: the means of the rules of relevance propagation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WeightedResult = tuple[Tensor, tuple[Tensor, ...]]


class _Surrogate(torch.autograd.Function):
    """A value, with the gradient of a surrogate of the same shape."""

    @staticmethod
    def forward(_: Any, value: Tensor, _surrogate: Tensor) -> Tensor:
        return value.clone()  # the model may change a result in place, but not a view

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return None, gradient


class _WeightedGradient(torch.autograd.Function):
    """The new tensor that a function returns, with given gradients for the inputs.

    The gradient for each input is that of the result times a weight of the same shape. A function,
    not a tensor, is given, since a model may change a result in place, but not the view of an input
    that PyTorch would return.
    """

    @staticmethod
    def forward(context: Any, compute: Callable[[], WeightedResult], *_inputs: Tensor) -> Tensor:
        result, weights = compute()
        context.save_for_backward(*weights)
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return None, *(gradient * weight for weight in context.saved_tensors)


class _NormGradient(torch.autograd.Function):
    """The new tensor of a normalisation, with the gradient for a constant standard deviation.

    `compute` returns the result and the factor that the centred input is multiplied by.
    """

    @staticmethod
    def forward(
        context: Any, _inputs: Tensor, compute: Callable[[], tuple[Tensor, Tensor]],
        axes: tuple[int, ...], is_centered: bool,
    ) -> Tensor:  # fmt: skip
        result, scale = compute()
        context.save_for_backward(scale)
        context.axes, context.is_centered = axes, is_centered
        return result

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        (scale,) = context.saved_tensors
        gradient = gradient * scale
        if context.is_centered:
            gradient = gradient - gradient.mean(dim=context.axes, keepdim=True)
        return gradient, None, None, None


class _ScaledGradient(torch.autograd.Function):
    """A tensor whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        return gradient * context.factor, None


OWN_NODES = {  # of the graph of gradients
    "_SurrogateBackward", "_WeightedGradientBackward", "_NormGradientBackward",
    "_ScaledGradientBackward",
}  # fmt: skip


def is_variable(argument: Any) -> bool:
    """Return whether an argument is a tensor that depends on the image."""
    return isinstance(argument, Tensor) and argument.requires_grad


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """Return `value` with the gradient of `surrogate`."""
    return _Surrogate.apply(value.detach(), surrogate.to(value.dtype))


def with_weighted_gradients(compute: Callable[[], WeightedResult], *inputs: Tensor) -> Tensor:
    """Return a result whose gradient for each input is its own times a weight.

    `compute` returns the result, a new tensor, and the weight for each input.
    """
    return _WeightedGradient.apply(compute, *inputs)


def with_constant_deviation(
    inputs: Tensor, compute: Callable[[], tuple[Tensor, Tensor]], axes: tuple[int, ...],
    *, is_centered: bool,
) -> Tensor:  # fmt: skip
    """Return a normalisation over `axes` with the gradient for a constant standard deviation.

    `compute` returns the result, and the factor that the centred input is multiplied by.
    """
    return _NormGradient.apply(inputs, compute, axes, is_centered)


def scale_gradient(argument: Any, factor: float) -> Any:
    """Return the argument with its gradient times `factor`, if it depends on the image."""
    if not is_variable(argument) or factor == 1:
        return argument
    return _ScaledGradient.apply(argument, factor)
