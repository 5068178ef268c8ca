"""Function mode that runs a model with the gradients of relevance propagation.

Every call of a function with a rule (`rule_registry`) gets the gradient of the rule; its
result is unchanged. Nothing in the model or in PyTorch is replaced. What remains without a rule
is read from the autograd graph, so that calls that no function mode sees are reported as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from ..errors import UnsupportedModelError
from . import normalization_rules, propagation_rules  # noqa: F401 — they register the rules
from .hooks import DISPATCH_CHECKS, without_dispatch
from .position_rules import tensors_in
from .rule_registry import RULES, PassState, RuleCall, RuleSettings, is_python
from .scope import depth
from .surrogate_gradients import OWN_NODES

# Nodes of the autograd graph whose own gradient is right: linear calls, calls that select or move
# elements, piecewise linear ones without an offset, and the products inside the attention.
_PLAIN_NODES = {
    "AccumulateGrad", "Add", "Sub", "Rsub", "Neg", "Sum", "Mean", "Cumsum", "Clone", "Copy",
    "CopySlices",
    "ToCopy", "Alias", "View", "UnsafeView", "ReshapeAlias", "AsStrided", "Permute",
    "Transpose", "T", "Unsqueeze", "Squeeze", "Expand", "Repeat", "RepeatInterleave", "Select",
    "Slice", "SelectScatter", "SliceScatter", "Index", "IndexSelect", "IndexPut",
    "IndexPutImpl", "IndexAdd", "IndexCopy", "Gather", "Scatter", "ScatterAdd", "Narrow",
    "Split", "SplitWithSizes", "Unbind", "UnsafeSplit", "Cat", "Stack", "Roll", "Flip", "Rot90",
    "Unfold", "Fold", "Im2Col", "Col2Im", "ConstantPadNd", "ReflectionPad1D", "ReflectionPad2D",
    "ReplicationPad1D", "ReplicationPad2D", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle",
    "NativeDropout", "FusedDropout", "MaskedFill", "MaskedScatter", "Where", "Tril", "Triu",
    "Diagonal", "MovedimInt", "AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D", "MkldnnAdaptiveAvgPool2D", "MaxPool2DWithIndices",
    "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "MkldnnMaxPool2D", "Max", "Min", "Amax",
    "Amin", "Maximum", "Minimum", "Topk", "Sort", "Relu", "LeakyRelu", "Prelu", "PreluKernel",
    "Abs", "UpsampleNearest2D", "UpsampleBilinear2D", "UpsampleBilinear2DAa",
    "UpsampleBicubic2D", "UpsampleBicubic2DAa", "UpsampleNearestExact2D", "GridSampler2D",
    "Real", "Imag", "ViewAsReal", "ViewAsComplex", "Mm", "Bmm", "Mv", "Dot", "Addmm", "Addmv",
    "Baddbmm", "Convolution", "ConvolutionOverrideable", "MkldnnLinear", "Softmax",
    "SafeSoftmax", "MaskedSoftmax", "Softmin", "ScaledDotProductFlashAttention", "Mul", "Div",
    "Addcmul", "ScaledDotProductFlashAttentionForCpu", "ScaledDotProductEfficientAttention",
    "ScaledDotProductCudnnAttention", "ScaledDotProductFusedAttentionOverrideable",
    "NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNorm", "Lerp",
    "SqueezeMultiple",
}  # fmt: skip
_OPAQUE = ("CompiledFunction", "DifferentiableGraph", "CheckpointFunction")


class PropagationMode(TorchFunctionMode):
    """Context in which the calls of this thread have the gradients of relevance propagation.

    A pass of another model, which a hook may start, is left as it is. Gradient checkpointing runs
    layers again during the backward pass, so the context must include it.
    """

    def __init__(self, settings: RuleSettings) -> None:
        super().__init__()
        self.settings = settings
        self.state = PassState()
        self.level = depth()
        self.opened: list[Any] = []  # functions in Python that run; some call themselves

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self.level or not torch.is_grad_enabled() or not _depends(args, kwargs):
            return func(*args, **kwargs)
        if "input" in kwargs and not args:
            args, kwargs = (kwargs["input"],), {k: v for k, v in kwargs.items() if k != "input"}
        rule = RULES.get(func)
        if rule is None:
            inner = _readable(func)
            if inner is not None and func not in self.opened:
                return self._run_opened(func, inner, args, kwargs)
            result = func(*args, **kwargs)
        elif _is_in_place(func):
            result = args[0]
            call = RuleCall(
                lambda first, *rest, **options: func(first.clone(), *rest, **options),
                (result.clone(), *args[1:]), kwargs, self.settings, self.state,
            )  # fmt: skip
            result.copy_(rule(call))
        else:
            result = rule(RuleCall(func, args, kwargs, self.settings, self.state))
        self.state.reader.note(func, args, kwargs, result)
        return result

    def _run_opened(self, func: Any, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function of PyTorch in Python such that this mode sees the calls inside it."""
        self.opened.append(func)
        try:
            with self:
                return inner(*args, **kwargs)
        finally:
            self.opened.pop()


def _depends(args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether an argument depends on the image."""
    return any(tensor.requires_grad for tensor in tensors_in((*args, *kwargs.values())))


def _is_in_place(func: Any) -> bool:
    name = func.__name__
    is_operator = name.startswith("__i") and name.endswith("__") and name != "__invert__"
    return is_operator or (name.endswith("_") and not name.endswith("__"))


@cache
def _readable(func: Any) -> Callable[..., Any] | None:
    """Return a copy of a function of PyTorch in Python whose inner calls a mode sees."""
    if not is_python(func) or not set(DISPATCH_CHECKS) & set(func.__code__.co_names):
        return None
    return without_dispatch(func)


def calls_without_rule(scores: Tensor, ends: Sequence[Tensor] | None = None) -> tuple[str, ...]:
    """Return the names of the calls in the graph of `scores` that have no rule, sorted.

    Parameters
    ----------
    scores : the result of a pass in `PropagationMode`
    ends : tensors that the scores are differentiated with respect to; only calls that pass
        gradients to them count. None is all calls

    Raises
    ------
    UnsupportedModelError
        For parts of the graph whose calls are not visible, such as compiled functions.
    """
    names: set[str] = set()
    for node in _nodes(scores, ends):
        inputs = [function for function, _ in node.next_functions]
        name = node.name()
        if any(part in name for part in _OPAQUE):
            raise UnsupportedModelError(
                f"model: expected calls that relevance propagation can follow, got {name} — "
                "pass the model in eager PyTorch, without compiled, scripted or checkpointed parts"
            )
        kind = re.sub(r"Backwards?\d*$", "", name.rpartition("::")[2])
        is_product = kind in ("Mul", "Div") and sum(map(bool, inputs)) > 1
        is_without_rule = kind not in _PLAIN_NODES or (is_product and not _has_rule(inputs))
        if name not in OWN_NODES and is_without_rule:
            names.add(kind)
    return tuple(sorted(names))


def _nodes(scores: Tensor, ends: Sequence[Tensor] | None) -> set[Any]:
    """Return the nodes of the graph of `scores`; with `ends`, those that lead to one of them."""
    users: dict[Any, list[Any]] = {}  # node to the nodes that it gets gradients from
    waiting = [scores.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in users:
            continue
        users[node] = []
        waiting += [function for function, _ in node.next_functions]
    if ends is None:
        return set(users)
    for node in users:
        for function, _ in node.next_functions:
            if function is not None:
                users[function].append(node)
    leading: set[Any] = set()
    waiting = [user for end in ends for user in users.get(get_gradient_edge(end).node, ())]
    while waiting:
        node = waiting.pop()
        if node not in leading:
            leading.add(node)
            waiting += users[node]
    return leading


def missing_rules_note(names: Sequence[str]) -> tuple[str, ...]:
    """Return the note that names the calls without a rule; () for none."""
    if not names:
        return ()
    note = f"No propagation rule exists for {', '.join(names)}; the gradient was used there."
    return (note,)


def _has_rule(factors: list[Any]) -> bool:
    """Return whether a factor is the result of a rule, or a view of it, as inside `einsum`."""
    for factor in factors:
        node = factor
        while node is not None and node.name() not in OWN_NODES and len(node.next_functions) == 1:
            node = node.next_functions[0][0]
        if node is not None and node.name() in OWN_NODES:
            return True
    return False
