"""Rules of relevance propagation: one gradient for each PyTorch function (AttnLRP, 2402.05602).

Relevance is tensor times gradient. A rule returns the exact result of a call with another gradient:
that of a surrogate with the same relevance as the rule of the paper. Sums, means and calls that
move elements need no rule, since their own gradient is right. A new rule is one function and
one decorator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .hooks import FusedCall
from .rule_registry import RuleCall, rule
from .surrogate_gradients import (
    WeightedResult,
    is_variable,
    scale_gradient,
    with_gradient_of,
    with_weighted_gradients,
)


@rule("linear")
def _linear(call: RuleCall) -> Tensor:
    return _linear_or_product(call, F.linear, call.settings.gamma)


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _convolution(call: RuleCall) -> Tensor:
    return _linear_or_product(call, call.function, call.settings.conv_gamma)


def _linear_or_product(call: RuleCall, function: Callable[..., Tensor], gamma: float) -> Tensor:
    inputs, weight, bias, rest = _layer_arguments(*call.args, **call.kwargs)
    if is_variable(weight):  # weights that depend on the image
        factor = 1 / (1 + is_variable(inputs))
        inputs, weight = scale_gradient(inputs, factor), scale_gradient(weight, factor)
        return function(inputs, weight, bias, *rest[0], **rest[1])

    def apply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(x, w, b, *rest[0], **rest[1])

    return propagate_linear(apply, inputs, weight, bias, gamma, call.settings.epsilon)


def _layer_arguments(
    input: Tensor,  # noqa: A002 — PyTorch's name
    weight: Tensor,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor, Tensor | None, tuple[Any, Any]]:
    return input, weight, bias, (args, kwargs)


def propagate_linear(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gamma: float,
    epsilon: float,
) -> Tensor:
    """Return a linear map of `inputs` with the gradient of the gamma rule.

    The rule multiplies each contribution x_i w_ij that has the sign of the result z_j by
    1 + gamma, and divides by the sum of the contributions and the bias, plus epsilon. With
    a_j = sum_i |x_i w_ij| + |b_j|, that sum is z_j (1 + gamma / 2) + sign(z_j) a_j gamma / 2, so
    one more product, of magnitudes, is enough.
    """
    result = apply(inputs, weight, bias)
    if not gamma and not epsilon:
        return result
    half = gamma / 2
    if not gamma:

        def damped() -> WeightedResult:
            size = result.abs()
            return result.clone(), (size / (size + epsilon),)

        return with_weighted_gradients(damped, result)
    magnitude = apply(inputs.abs(), weight.abs(), None if bias is None else bias.abs())

    def weighted() -> WeightedResult:
        exact = torch.promote_types(result.dtype, torch.float32)
        size = result.abs().to(exact)
        share = _divide(size, (1 + half) * size + half * magnitude.to(exact) + epsilon)
        of_result = (share * (1 + half)).to(result.dtype)
        of_magnitude = (share * half).to(result.dtype) * result.sign()
        return result.clone(), (of_result, of_magnitude)

    return with_weighted_gradients(weighted, result, magnitude)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with 0 where both are 0."""
    return torch.where(denominator == 0, 0, numerator / denominator)


@rule("matmul", "mm", "bmm", "mv", "dot", "inner", "bilinear", "tensordot", "kron")
def _product_of_matrices(call: RuleCall) -> Tensor:
    """Half of the relevance for each factor; a constant matrix is a linear layer."""
    left, right = _operands(call, "mat2")
    is_layer = [isinstance(side, Tensor) and side.ndim <= 2 for side in (left, right)]
    if is_variable(left) and is_variable(right):
        return call.run(scale_gradient(left, 0.5), scale_gradient(right, 0.5))
    gamma, epsilon = call.settings.gamma, call.settings.epsilon
    if call.function in _MATMUL and is_variable(left) and is_layer[1]:
        return propagate_linear(lambda x, w, _: x @ w, left, right, None, gamma, epsilon)
    if call.function in _MATMUL and is_variable(right) and is_layer[0]:
        return propagate_linear(lambda x, w, _: w @ x, right, left, None, gamma, epsilon)
    return call.run()


_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm}


@rule("addmm", "baddbmm", "addbmm", "addmv", "addcmul")
def _product_and_sum(call: RuleCall) -> Tensor:
    first, second = _factors_of_sum(*call.args, **call.kwargs)
    if is_variable(first) and is_variable(second):
        names = [name for name in call.kwargs if name in _FACTOR_NAMES]
        kwargs = {name: scale_gradient(call.kwargs[name], 0.5) for name in names}
        if len(call.args) < 3:
            return call.run(*call.args, **kwargs)
        halves = scale_gradient(first, 0.5), scale_gradient(second, 0.5)
        return call.run(call.args[0], *halves, **kwargs)
    weight, bias = second, call.args[0]
    is_plain_sum = not {"alpha", "beta"} & call.kwargs.keys() and not is_variable(bias)
    if is_variable(first) and isinstance(weight, Tensor) and weight.ndim == 2 and is_plain_sum:
        return propagate_linear(
            lambda x, w, b: x @ w if b is None else x @ w + b,
            first, weight, bias, call.settings.gamma, call.settings.epsilon,
        )  # fmt: skip
    return call.run()


_FACTOR_NAMES = ("mat1", "mat2", "batch1", "batch2", "tensor1", "tensor2", "mat", "vec")


def _factors_of_sum(_added: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    named = [kwargs[name] for name in _FACTOR_NAMES if name in kwargs]
    first, second, *_ = (*args, *named)
    return first, second


@rule("einsum")
def _einsum(call: RuleCall) -> Tensor:
    """The same part of the relevance for each factor."""
    equation, operands = call.args
    factor = 1 / max(sum(map(is_variable, operands)), 1)
    return call.run(equation, [scale_gradient(operand, factor) for operand in operands])


@rule("scaled_dot_product_attention")
def _attention(call: RuleCall) -> Tensor:
    """Half of the relevance for the values, and half for the scores, whose factors share it."""
    attention = FusedCall(*call.args, **call.kwargs)
    if call.settings.attention == "cp-lrp":
        attention.query, attention.key = attention.query.detach(), attention.key.detach()
        if attention.attn_mask is not None:
            attention.attn_mask = attention.attn_mask.detach()
        return attention.run()
    queries, keys = is_variable(attention.query), is_variable(attention.key)
    has_scores = queries or keys or is_variable(attention.attn_mask)
    of_scores = 1 / (has_scores + is_variable(attention.value)) if has_scores else 1.0
    factor = of_scores / max(queries + keys, 1)
    attention.query = scale_gradient(attention.query, factor)
    attention.key = scale_gradient(attention.key, factor)
    attention.value = scale_gradient(attention.value, of_scores)
    attention.attn_mask = scale_gradient(attention.attn_mask, of_scores)
    return attention.run()


@rule("softmax", "_softmax")
def _softmax(call: RuleCall) -> Tensor:
    """The gradient itself, or none for a constant attention."""
    result = call.run()
    is_attention = call.settings.attention == "cp-lrp" and result.ndim >= 3
    return result.detach() if is_attention else result


@rule(
    "gelu", "silu", "mish", "hardswish", "tanh", "elu", "selu", "celu", "hardtanh", "softsign",
    "erf", "sin", "asinh", "square",
)  # fmt: skip
def _activation(call: RuleCall) -> Tensor:
    """All relevance of the result for the input of a function with f(0) = 0."""
    inputs = call.args[0]
    return _note(call, inputs, _identity(call, inputs))


def _identity(call: RuleCall, inputs: Tensor) -> Tensor:
    """Return the result, an elementwise function of `inputs` with f(0) = 0; identity rule."""

    def compute() -> WeightedResult:
        result = call.run()
        return result, ((result / inputs).masked_fill_(inputs == 0, 0),)

    return with_weighted_gradients(compute, inputs)


@rule("sigmoid", "hardsigmoid", "softplus", "exp", "log_sigmoid", "logsigmoid", "expit", "cos")
def _activation_with_offset(call: RuleCall) -> Tensor:
    """All relevance of f(x) - f(0) for the input; f(0) is a constant, like a bias."""
    scores = call.softmax_scores()
    if scores is not None:
        return with_gradient_of(torch.softmax(*scores), call.value())
    inputs = call.args[0]
    return _note(call, inputs, _identity_with_offset(inputs, call.value(), call.run))


def _identity_with_offset(
    inputs: Tensor, result: Tensor, function: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return `result` by the identity rule for f(x) - f(0); the slope near 0 is f'(0)."""
    with torch.enable_grad():
        zero = inputs.new_zeros(()).requires_grad_()
        at_zero = function(zero)
        (slope_at_zero,) = torch.autograd.grad(at_zero, zero)
    with torch.no_grad():
        is_small = inputs.abs() < torch.finfo(inputs.dtype).eps ** (1 / 3)
        divisor = torch.where(is_small, 1, inputs)
        slope = torch.where(is_small, slope_at_zero, (result - at_zero) / divisor)
    return with_gradient_of(inputs * slope, result)


@rule("glu")
def _gated_linear_unit(call: RuleCall) -> Tensor:
    """Half of the relevance for the values, and half for their gates."""
    axis = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", -1)
    values, gates = call.args[0].chunk(2, dim=axis)
    weights = _identity_with_offset(gates, gates.detach().sigmoid(), torch.sigmoid)
    product = scale_gradient(values, 0.5) * scale_gradient(weights, 0.5)
    return with_gradient_of(product, call.value())


@rule("pow", "float_power")
def _power(call: RuleCall) -> Tensor:
    """The identity rule for powers above 1; roots and inverses belong to a normalisation."""
    base, exponent = call.args[:2] if len(call.args) > 1 else (*call.args, call.kwargs["exponent"])
    if not is_variable(base) or not isinstance(exponent, (int, float)):
        return call.run()
    if exponent == 1:
        return call.run()
    return _activation(call) if exponent > 1 else call.run().detach()


@rule("mul", "multiply", "rmul")
def _product(call: RuleCall) -> Tensor:
    """Half of the relevance for each factor; functions of one tensor obey the identity rule."""
    left, right = _operands(call)
    if not (is_variable(left) and is_variable(right)):
        return _scaled(call)
    source = call.state.source(left)
    if source is call.state.source(right):
        return _note(call, source, _identity(call, source))
    return call.run(scale_gradient(left, 0.5), scale_gradient(right, 0.5))


@rule("div", "divide", "true_divide", "truediv")
def _quotient(call: RuleCall) -> Tensor:
    """All relevance for the numerator; the denominator is a statistic of a normalisation."""
    scores = call.softmax_scores()
    if scores is not None:
        return with_gradient_of(torch.softmax(*scores), call.value())
    numerator, denominator = _operands(call)
    if not is_variable(denominator):
        return _scaled(call)
    return call.run(numerator, denominator.detach())


@rule("add", "radd", "sub", "subtract", "rsub", "neg", "negative")
def _scaled(call: RuleCall) -> Tensor:
    """The gradient itself; a sum with numbers is a function of the same tensor."""
    operands = [operand for operand in call.args if isinstance(operand, Tensor)]
    sources = [call.state.source(operand) for operand in operands if is_variable(operand)]
    is_function = bool(sources) and all(source is sources[0] for source in sources)
    is_function &= all(is_variable(operand) or operand.ndim == 0 for operand in operands)
    result = call.run()
    return _note(call, sources[0], result) if is_function else result


def _operands(call: RuleCall, name: str = "other") -> tuple[Any, Any]:
    """Return the two operands; the second may be named."""
    left, right, *_ = (*call.args, call.kwargs.get(name, call.kwargs.get("other")))
    return left, right


def _note(call: RuleCall, inputs: Tensor, result: Tensor) -> Tensor:
    """Store that `result` is an elementwise function of `inputs`, and return it."""
    call.state.note_source(result, call.state.source(inputs))
    return result
