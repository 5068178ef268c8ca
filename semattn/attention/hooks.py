"""Interception of the attention calls of a module, to record or change them.

A pre-hook on the module pushes a `TorchFunctionMode`, and a forward hook that is always called pops
it. The mode is therefore active only inside that module, knows the module of each call, and works
again when gradient checkpointing reruns the module. Fused kernels stay in use: the call keeps its
arguments, or gets a bias added to its mask.
"""

from __future__ import annotations

import inspect
import math
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .scope import CallScope, depth
from .sites import AttentionSite

_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax, torch._softmax, torch.special.softmax}
_EXP = {torch.exp, Tensor.exp, torch.exp_, Tensor.exp_}
_LOG = {torch.log_softmax, F.log_softmax, Tensor.log_softmax, torch.special.log_softmax}
_SUM = {torch.sum, Tensor.sum}
_DIVIDE = {
    torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.divide, Tensor.true_divide,
    Tensor.div_, Tensor.divide_, Tensor.true_divide_, Tensor.__truediv__, Tensor.__itruediv__,
}  # fmt: skip
_KINDS = {
    **dict.fromkeys(_SOFTMAX, "softmax"),
    **dict.fromkeys(_EXP, "exp"),
    **dict.fromkeys(_SUM, "sum"),
    **dict.fromkeys(_LOG, "log"),
    **dict.fromkeys(_DIVIDE, "divide"),
    F.scaled_dot_product_attention: "fused",
    F.multi_head_attention_forward: "multi-head",
}

DISPATCH_CHECKS = (
    "has_torch_function", "has_torch_function_unary", "has_torch_function_variadic",
)  # fmt: skip


@dataclass
class FusedCall:
    """Arguments of one `scaled_dot_product_attention`: q (B,H,Nq,D), k and v (B,H,Nk,D)."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    width: int | None = None  # original channels of the values, if channels have been added

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.query.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, H, Nq, Nk) of the attention; fewer axes if the call has fewer."""
        lead = self.query.shape[:-2]
        if not self.enable_gqa:  # learned queries may be shared by all images
            lead = torch.broadcast_shapes(lead, self.key.shape[:-2])
        return (*lead, self.query.shape[-2], self.key.shape[-2])

    def run(self) -> Tensor:
        """Run the call and return its result (B,H,Nq,D)."""
        extra: dict[str, Any] = {} if self.scale is None else {"scale": self.scale}
        if self.enable_gqa:
            extra["enable_gqa"] = True
        result = F.scaled_dot_product_attention(
            self.query,
            self.key,
            self.value,
            attn_mask=self.attn_mask,
            dropout_p=self.dropout_p,
            is_causal=self.is_causal,
            **extra,
        )
        return result if self.width is None else result[..., : self.width]

    def add_bias(self, bias: Tensor, query_mask: Tensor | None = None) -> None:
        """Add `bias`, broadcastable to (B,H,Nq,Nk), to the scores of this call.

        With `query_mask`, (…,Nq,1) of ones and zeros, only for the queries marked by ones; the bias
        is then one number per key, (…,1,Nk).
        """
        bias = bias.to(self.query)
        if query_mask is not None:
            self._add_product(query_mask.to(bias), bias)
            return
        if self.is_causal:
            queries, keys = self.shape[-2:]
            allowed = torch.ones(queries, keys, dtype=torch.bool, device=bias.device).tril()
            self.attn_mask, self.is_causal = allowed, False
        if self.attn_mask is None:
            self.attn_mask = bias
        elif self.attn_mask.dtype == torch.bool:
            self.attn_mask = bias.masked_fill(~self.attn_mask, -math.inf)
        else:
            self.attn_mask = self.attn_mask + bias

    def _add_product(self, query_mask: Tensor, bias: Tensor) -> None:
        """Add query_mask x bias as a channel of queries and keys, to avoid an N x N bias.

        Kernels require a multiple of eight channels, and the same number for the values.
        """
        times = self.query.shape[1] // self.key.shape[1] if self.enable_gqa else 1
        if times > 1 and bias.shape[1] > 1:  # heads share keys, but have different biases
            self.key = self.key.repeat_interleave(times, dim=1)
            self.value = self.value.repeat_interleave(times, dim=1)
            self.enable_gqa = False
        channels = self.query.shape[-1]
        self.scale = 1 / math.sqrt(channels) if self.scale is None else self.scale
        self.width = self.value.shape[-1] if self.width is None else self.width
        n_added = 8 - channels % 8

        def add_channel(tensor: Tensor, channel: Tensor) -> Tensor:
            channel = F.pad(channel.expand(*tensor.shape[:-1], 1), (0, n_added - 1))
            return torch.cat([tensor, channel], dim=-1)

        self.query = add_channel(self.query, query_mask)
        self.key = add_channel(self.key, bias.transpose(-2, -1) / self.scale)
        self.value = F.pad(self.value, (0, n_added))


@dataclass
class DenseCall:
    """Softmax over scores (B,H,Nq,Nk) in a module without a fused attention call."""

    scores: Tensor
    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.scores.device

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (B, H, Nq, Nk) of the attention."""
        return tuple(self.scores.shape)

    def run(self) -> Tensor:
        """Run the call and return the attention (B,H,Nq,Nk)."""
        return self.function(self.scores, *self.args, **self.kwargs)

    def add_bias(self, bias: Tensor, query_mask: Tensor | None = None) -> None:
        """Add `bias` to the scores, like `FusedCall.add_bias`."""
        bias = bias.to(self.scores)
        self.scores = self.scores + (bias if query_mask is None else query_mask.to(bias) * bias)


Call = FusedCall | DenseCall
Reply = Callable[[Call], Tensor]
Handler = Callable[[AttentionSite, Call], Tensor]


@dataclass(frozen=True)
class FoundCall:
    """Function call that may be an attention call.

    `make` runs the call with a `Reply`, the function that computes its result, and the axis of the
    queries. `scores` and `dim` are those of a softmax; `scores` is None for other calls.
    """

    make: Callable[[Reply, int | None], Any]
    scores: Tensor | None = None
    dim: int = -1


class CallReader:
    """Detector of attention calls among the function calls of a model.

    An attention call is `scaled_dot_product_attention`, `multi_head_attention_forward`, or a
    softmax over an axis of three or more, also as exp(x) / sum(exp(x)) or exp(log_softmax(x)).
    """

    def __init__(self) -> None:
        self._scores = WeakTensorKeyDictionary()  # exp(x) -> x
        self._sums = WeakTensorKeyDictionary()  # sum of exp(x) -> exp(x), axis
        self._logs = WeakTensorKeyDictionary()  # log_softmax(x) -> x, axis

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FoundCall | None:
        """Return the call if it may be an attention call."""
        kind = _KINDS.get(func)
        if kind is None:
            return None
        if kind == "fused":
            return FoundCall(lambda reply, _: reply(FusedCall(*args, **kwargs)))
        if kind == "multi-head":
            return FoundCall(lambda reply, _: _run_multi_head(reply, args, kwargs))
        if kind == "softmax":
            return _softmax(func, args, kwargs)
        tensors = [argument for argument in args[:2] if isinstance(argument, Tensor)]
        if kind == "exp" and tensors and tensors[0] in self._logs:
            scores, dim = self._logs[tensors[0]]
            return _decomposed_softmax(scores, dim, func, args, kwargs)
        if kind == "divide" and len(tensors) == 2 and tensors[1] in self._sums:
            exponentials, dim = self._sums[tensors[1]]
            if exponentials() is tensors[0]:
                return _decomposed_softmax(self._scores[tensors[0]], dim, func, args, kwargs)
        return None

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Store intermediate results of a softmax that is computed by several calls."""
        kind = _KINDS.get(func)
        if kind not in ("exp", "sum", "log") or not args or not isinstance(result, Tensor):
            return
        first = args[0]
        if not isinstance(first, Tensor) or result.ndim != first.ndim or result.ndim < 3:
            return
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if kind == "exp" and result is not first:
            self._scores[result] = first
        elif kind == "sum" and first in self._scores:
            self._sums[result] = (weakref.ref(first), dim)
        elif kind == "log":
            self._logs[result] = (first, dim)


def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FoundCall | None:
    kwargs = dict(kwargs)
    remaining = list(args)
    scores = remaining.pop(0) if remaining else kwargs.pop("input", None)
    dim = remaining.pop(0) if remaining else kwargs.pop("dim", None)
    return _softmax_over_keys(scores, dim, lambda values: func(values, dim, *remaining, **kwargs))


def _decomposed_softmax(
    scores: Tensor, dim: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> FoundCall | None:
    """Return a softmax in several calls, `func` being the last; with a bias, a single call."""

    def softmax(values: Tensor) -> Tensor:
        return func(*args, **kwargs) if values is scores else torch.softmax(values, dim)

    return _softmax_over_keys(scores, dim, softmax)


def _softmax_over_keys(
    scores: Any, dim: Any, function: Callable[[Tensor], Tensor]
) -> FoundCall | None:
    """Return a softmax over one axis, that of the keys; `function` takes the original scores."""
    if isinstance(dim, (list, tuple)) and len(dim) == 1:
        dim = dim[0]
    if not isinstance(scores, Tensor) or scores.ndim < 3 or not isinstance(dim, int):
        return None
    keys = dim % scores.ndim - scores.ndim

    def make(reply: Reply, queries: int | None) -> Any:
        queries = (-1 if keys != -1 else -2) if queries is None else queries
        if (queries, keys) == (-2, -1):
            return reply(DenseCall(scores, function, (), {}))
        moved = scores.movedim((queries, keys), (-2, -1))

        def softmax_of_moved(values: Tensor) -> Tensor:
            is_original = values is moved
            original = scores if is_original else values.movedim((-2, -1), (queries, keys))
            return function(original).movedim((queries, keys), (-2, -1))

        return reply(DenseCall(moved, softmax_of_moved, (), {})).movedim((-2, -1), (queries, keys))

    return FoundCall(make, scores, keys)


class _CallMode(TorchFunctionMode):
    """Function mode that passes the attention calls of one running module to a handler."""

    def __init__(
        self, sites: Sequence[AttentionSite], handler: Handler, running: list[Any]
    ) -> None:
        super().__init__()
        self.sites = sites
        self.handler = handler
        self.running = running  # modes of this attachment, innermost last
        self.reader = CallReader()
        self.level = depth()
        self.calls = 0  # attention calls since the module started

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self.level:
            return func(*args, **kwargs)
        call = self.reader.read(func, args, kwargs)
        if call is None:
            result = func(*args, **kwargs)
            self.reader.note(func, args, kwargs, result)
            return result
        if self.running and self.running[-1] is self:  # the call counts for all enclosing modules
            for mode in self.running:
                mode.calls += 1
        for site in self.sites:
            if site.call is None or site.call == self.calls - 1:
                return call.make(partial(self.handler, site), site.query_axis)
        return func(*args, **kwargs)


def _run_multi_head(reply: Reply, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `F.multi_head_attention_forward` and compute the attention call inside it by `reply`.

    The code of PyTorch runs with modified globals, which replace its attention call and softmax.
    """
    function = F.multi_head_attention_forward
    n_heads = inspect.signature(function).bind(*args, **kwargs).arguments["num_heads"]

    def attention(*call_args: Any, **call_kwargs: Any) -> Tensor:
        return reply(FusedCall(*call_args, **call_kwargs))

    def softmax(scores: Tensor, dim: int) -> Tensor:
        is_folded = scores.ndim == 3  # (B * heads, Nq, Nk)
        unfolded = scores.unflatten(0, (-1, n_heads)) if is_folded else scores
        result = reply(DenseCall(unfolded, F.softmax, (dim,), {}))
        return result.flatten(0, 1) if is_folded else result

    copy = without_dispatch(
        function,
        # an outer attachment receives the inner call
        scaled_dot_product_attention=attention,
        softmax=softmax,
    )
    return copy(*args, **kwargs)


def without_dispatch(function: Any, **replaced: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function of PyTorch that runs its code in an active function mode.

    The function itself passes its call to the mode as a whole; the copy passes the calls inside it.
    `replaced` are other functions for the names that the code uses.
    """
    ignored = dict.fromkeys(DISPATCH_CHECKS, lambda *_: False)
    copy = types.FunctionType(
        function.__code__,
        function.__globals__ | ignored | replaced,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@contextmanager
def attach(
    sites: Mapping[nn.Module, AttentionSite | Sequence[AttentionSite]],
    handler: Handler,
    *,
    outermost: bool = False,
    scope: CallScope | None = None,
) -> Iterator[None]:
    """Pass every attention call of `sites` in `scope` to `handler`, which returns the result.

    By default it is the scope of the caller. Attachments can be nested: the last one receives a
    call first and passes on its changes; an `outermost` one receives the call after the changes of
    all others. The hooks are removed when the context ends, also after an exception or an
    incomplete attachment.
    """
    attachment = Attachment(handler, outermost=outermost, scope=scope)
    try:
        attachment.add(sites)
        yield
    finally:
        attachment.remove()


class Attachment:
    """Hooks of `attach`, to which modules can be added while it is active."""

    def __init__(
        self, handler: Handler, *, outermost: bool = False, scope: CallScope | None = None
    ) -> None:
        self.handler = handler
        self.outermost = outermost
        self.scope = scope or CallScope()
        self.sites: dict[nn.Module, Sequence[AttentionSite]] = {}
        self.running: list[tuple[nn.Module, _CallMode]] = []  # innermost last
        self.modes: list[_CallMode] = []
        self.handles: list[Any] = []

    def add(self, sites: Mapping[nn.Module, AttentionSite | Sequence[AttentionSite]]) -> None:
        """Hook modules that are not hooked yet; replace the sites of the others."""
        for module, new_sites in sites.items():
            is_hooked = module in self.sites
            self.sites[module] = (
                (new_sites,) if isinstance(new_sites, AttentionSite) else tuple(new_sites)
            )
            if not is_hooked:
                pre_hook = module.register_forward_pre_hook(self.enter, prepend=self.outermost)
                self.handles.append(pre_hook)
                hook = module.register_forward_hook(
                    self.leave, always_call=True, prepend=not self.outermost
                )
                self.handles.append(hook)

    def remove(self) -> None:
        """Leave all modes and remove all hooks."""
        while self.modes:
            self._pop()
        while self.handles:
            self.handles.pop().remove()

    def enter(self, module: nn.Module, _: Any) -> None:
        """Enter the mode of a module that starts; the pre-hook."""
        if self.scope.is_current_or_recomputing():
            mode = _CallMode(self.sites[module], self.handler, self.modes)
            mode.__enter__()
            self.running.append((module, mode))
            self.modes.append(mode)

    def leave(self, module: nn.Module, *_: Any) -> None:
        """Leave the mode of a module that ends; the forward hook."""
        if (
            self.scope.is_current_or_recomputing()
            and self.running
            and self.running[-1][0] is module
        ):
            self._pop()

    def _pop(self) -> None:
        self.running.pop()
        self.modes.pop().__exit__(None, None, None)
