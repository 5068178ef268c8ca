"""Rules of relevance propagation for normalisations: the standard deviation is a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .rule_registry import RuleCall, rule
from .surrogate_gradients import with_constant_deviation, with_gradient_of


@rule("layer_norm")
def _layer_norm(call: RuleCall) -> Tensor:
    def normalize(
        input: Tensor,  # noqa: A002 — PyTorch's name
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
        **_options: Any,
    ) -> Tensor:
        return _normalized(call, input, normalized_shape, weight, bias, eps)

    return normalize(*call.args, **call.kwargs)


@rule("rms_norm")
def _rms_norm(call: RuleCall) -> Tensor:
    def normalize(
        input: Tensor,  # noqa: A002 — PyTorch's name
        normalized_shape: Sequence[int],
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> Tensor:
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        return _normalized(call, input, normalized_shape, weight, None, eps, is_centered=False)

    return normalize(*call.args, **call.kwargs)


def _normalized(
    call: RuleCall,
    inputs: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    *,
    is_centered: bool = True,
) -> Tensor:
    """Return the result of a normalisation over the last axes, of the given shape."""
    axes = tuple(range(-len(shape), 0))

    def compute() -> tuple[Tensor, Tensor]:
        if is_centered and inputs.dtype in (torch.float32, torch.float64):
            result, _, scale = torch.native_layer_norm(inputs, shape, weight, bias, epsilon)
        else:
            result = call.run()
            scale = _inverse_deviation(inputs, axes, epsilon, is_centered=is_centered)
        return result, scale if weight is None else scale * weight

    return with_constant_deviation(inputs, compute, axes, is_centered=is_centered)


def _inverse_deviation(
    inputs: Tensor, axes: tuple[int, ...], epsilon: float, *, is_centered: bool
) -> Tensor:
    """Return 1 / standard deviation over `axes`, in float32 at least; about 0 if not centred."""
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    if is_centered:
        variance = values.var(dim=axes, keepdim=True, correction=0)
    else:
        variance = values.square().mean(dim=axes, keepdim=True)
    return (variance + epsilon).rsqrt()


@rule("group_norm")
def _group_norm(call: RuleCall) -> Tensor:
    def normalize(
        input: Tensor,  # noqa: A002 — PyTorch's name
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *_: Any,
        **_options: Any,
    ) -> Tensor:
        groups = input.unflatten(1, (num_groups, -1))
        values = _normalize(groups, tuple(range(2, groups.ndim)), None, eps).reshape(input.shape)
        return values if weight is None else values * _of_channels(weight, input)

    return with_gradient_of(normalize(*call.args, **call.kwargs), call.value())


def _normalize(
    inputs: Tensor, axes: tuple[int, ...], weight: Tensor | None, epsilon: float
) -> Tensor:
    """Normalise over `axes` with a constant standard deviation, in float32 at least."""
    values = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    with torch.no_grad():
        scale = _inverse_deviation(values, axes, epsilon, is_centered=True)
        scale = scale if weight is None else scale * weight
    return (values - values.mean(dim=axes, keepdim=True)) * scale


def _of_channels(weight: Tensor, inputs: Tensor) -> Tensor:
    """Return weights (C,) in a shape that broadcasts with `inputs` (B, C, …)."""
    return weight.detach().reshape(-1, *[1] * (inputs.ndim - 2))


@rule("batch_norm", "instance_norm")
def _norm_of_channels(call: RuleCall) -> Tensor:
    """Stored statistics are constants already; those of the input become constants."""
    inputs, weight, _, mean, _, uses_inputs, _, epsilon, *_ = call.args
    if not uses_inputs and mean is not None:
        return call.run()
    axes = tuple(range(2, inputs.ndim))
    axes = (0, *axes) if call.function is torch.batch_norm else axes
    weight = None if weight is None else _of_channels(weight, inputs)
    return with_gradient_of(_normalize(inputs, axes, weight, epsilon), call.value())


@rule(
    "sqrt", "rsqrt", "reciprocal", "std", "var", "var_mean", "std_mean", "vector_norm", "norm",
    "linalg_vector_norm", "matrix_norm",
)  # fmt: skip
def _statistic(call: RuleCall) -> Any:
    """Statistics of a normalisation are constants."""
    result = call.run()
    return tuple(part.detach() for part in result) if isinstance(result, tuple) else result.detach()
