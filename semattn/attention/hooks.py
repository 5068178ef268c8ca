"""Seeing, and changing, the attention call that a module makes.

A pre-hook on the module pushes a `TorchFunctionMode`, a forward hook that is always called pops
it. So the mode is on inside that module alone, knows whose call it sees, and works again when
gradient checkpointing runs the module a second time. Fused kernels stay on: the call is passed on
with the arguments that it came with, or with a bias added to its mask.
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

from .scope import Owner, depth
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


@dataclass
class FusedCall:
    """The arguments of one `scaled_dot_product_attention`: q (B,H,Nq,D), k and v (B,H,Nk,D)."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False
    width: int | None = None  # of the values, where channels have been added to them

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.query.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, Nq, Nk), or fewer axes where the call had fewer."""
        lead = self.query.shape[:-2]
        if not self.enable_gqa:  # learned queries may be the same for all images
            lead = torch.broadcast_shapes(lead, self.key.shape[:-2])
        return (*lead, self.query.shape[-2], self.key.shape[-2])

    def run(self) -> Tensor:
        """Make the call: (B,H,Nq,D)."""
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

    def add_bias(self, bias: Tensor, asking: Tensor | None = None) -> None:
        """Add `bias`, broadcastable to (B,H,Nq,Nk), to the scores of this call.

        With `asking`, (…,Nq,1) of ones and zeros, only to those of the queries that it names; the
        bias is then one number a key, (…,1,Nk).
        """
        bias = bias.to(self.query)
        if asking is not None:
            self._add_product(asking.to(bias), bias)
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

    def _add_product(self, asking: Tensor, bias: Tensor) -> None:
        """Add asking x bias as one more channel of queries and keys, so that it is never N x N.

        Kernels want a multiple of eight channels, and as many of the values.
        """
        times = self.query.shape[1] // self.key.shape[1] if self.enable_gqa else 1
        if times > 1 and bias.shape[1] > 1:  # heads that share keys, but not their bias
            self.key, self.value = (
                one.repeat_interleave(times, dim=1) for one in (self.key, self.value)
            )
            self.enable_gqa = False
        channels = self.query.shape[-1]
        self.scale = 1 / math.sqrt(channels) if self.scale is None else self.scale
        self.width = self.value.shape[-1] if self.width is None else self.width
        more = 8 - channels % 8

        def widened(tensor: Tensor, first: Tensor) -> Tensor:
            first = F.pad(first.expand(*tensor.shape[:-1], 1), (0, more - 1))
            return torch.cat([tensor, first], dim=-1)

        self.query = widened(self.query, asking)
        self.key = widened(self.key, bias.transpose(-2, -1) / self.scale)
        self.value = F.pad(self.value, (0, more))


@dataclass
class DenseCall:
    """One softmax over scores (B,H,Nq,Nk), as an unfused module makes it."""

    scores: Tensor
    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return self.scores.device

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, H, Nq, Nk)."""
        return tuple(self.scores.shape)

    def run(self) -> Tensor:
        """Make the call: the attention (B,H,Nq,Nk)."""
        return self.function(self.scores, *self.args, **self.kwargs)

    def add_bias(self, bias: Tensor, asking: Tensor | None = None) -> None:
        """Add `bias`, and only for the queries in `asking`, as `FusedCall.add_bias` does."""
        bias = bias.to(self.scores)
        self.scores = self.scores + (bias if asking is None else asking.to(bias) * bias)


Call = FusedCall | DenseCall
Reply = Callable[[Call], Tensor]
Handler = Callable[[AttentionSite, Call], Tensor]


@dataclass(frozen=True)
class FoundCall:
    """A function call that may be attention, and how to make it.

    `make` takes what answers the call, and the axis of the queries. `scores` and `dim` are those of
    a softmax, None of other calls.
    """

    make: Callable[[Reply, int | None], Any]
    scores: Tensor | None = None
    dim: int = -1


class CallReader:
    """Recognises attention calls among the functions that a model calls.

    An attention call is `scaled_dot_product_attention`, `multi_head_attention_forward`, or a
    softmax over an axis of three or more, also as exp(x) / sum(exp(x)) or exp(log_softmax(x)).
    """

    def __init__(self) -> None:
        self._scores = WeakTensorKeyDictionary()  # of exp(x): x
        self._sums = WeakTensorKeyDictionary()  # of a sum of exp(x): exp(x), and the axis
        self._logs = WeakTensorKeyDictionary()  # of log_softmax(x): x, and the axis

    def read(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FoundCall | None:
        """The call, if it may be one of attention."""
        kind = _KINDS.get(func)
        if kind is None:
            return None
        if kind == "fused":
            return FoundCall(lambda reply, _: reply(FusedCall(*args, **kwargs)))
        if kind == "multi-head":
            return FoundCall(lambda reply, _: _opened(reply, args, kwargs))
        if kind == "softmax":
            return _softmax(func, args, kwargs)
        tensors = [one for one in args[:2] if isinstance(one, Tensor)]
        if kind == "exp" and tensors and tensors[0] in self._logs:
            scores, dim = self._logs[tensors[0]]
            return _written_out(scores, dim, func, args, kwargs)
        if kind == "divide" and len(tensors) == 2 and tensors[1] in self._sums:
            whole, dim = self._sums[tensors[1]]
            if whole() is tensors[0]:
                return _written_out(self._scores[tensors[0]], dim, func, args, kwargs)
        return None

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Remember the parts of a softmax that is written out."""
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
    rest = dict(kwargs)
    given = list(args)
    scores = given.pop(0) if given else rest.pop("input", None)
    dim = given.pop(0) if given else rest.pop("dim", None)
    return _over_keys(scores, dim, lambda values: func(values, dim, *given, **rest))


def _written_out(
    scores: Tensor, dim: Any, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> FoundCall | None:
    """A softmax in several calls, of which `func` is the last; with a bias it is one call."""

    def soften(values: Tensor) -> Tensor:
        return func(*args, **kwargs) if values is scores else torch.softmax(values, dim)

    return _over_keys(scores, dim, soften)


def _over_keys(scores: Any, dim: Any, function: Callable[[Tensor], Tensor]) -> FoundCall | None:
    """A softmax over one axis, that of the keys; `function` makes it of the scores as they are."""
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

        def turned(values: Tensor) -> Tensor:
            untouched = values is moved
            given = scores if untouched else values.movedim((-2, -1), (queries, keys))
            return function(given).movedim((queries, keys), (-2, -1))

        return reply(DenseCall(moved, turned, (), {})).movedim((-2, -1), (queries, keys))

    return FoundCall(make, scores, keys)


class _Intercept(TorchFunctionMode):
    """Hands the attention calls of one module to a handler, while that module runs."""

    def __init__(
        self, sites: Sequence[AttentionSite], handler: Handler, running: list[Any]
    ) -> None:
        super().__init__()
        self.sites = sites
        self.handler = handler
        self.running = running  # of this attachment, the innermost last
        self.reader = CallReader()
        self.level = depth()
        self.calls = 0  # that have been made since the module began

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self.level:
            return func(*args, **kwargs)
        found = self.reader.read(func, args, kwargs)
        if found is None:
            result = func(*args, **kwargs)
            self.reader.note(func, args, kwargs, result)
            return result
        if self.running and self.running[-1] is self:  # modules around it make the same call
            for mode in self.running:
                mode.calls += 1
        for site in self.sites:
            if site.call is None or site.call == self.calls - 1:
                return found.make(partial(self.handler, site), site.query_axis)
        return func(*args, **kwargs)


def _opened(reply: Reply, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`F.multi_head_attention_forward` with the attention call inside it answered by `reply`.

    PyTorch's own code runs, with other globals: only there, its attention call and its softmax go
    to `reply`.
    """
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs).arguments
    number = given["num_heads"]

    def fused(*call: Any, **named: Any) -> Tensor:
        return reply(FusedCall(*call, **named))

    def soft(scores: Tensor, dim: int) -> Tensor:
        folded = scores.ndim == 3  # (B * heads, Nq, Nk)
        whole = scores.unflatten(0, (-1, number)) if folded else scores
        made = reply(DenseCall(whole, F.softmax, (dim,), {}))
        return made.flatten(0, 1) if folded else made

    body = F.multi_head_attention_forward
    inside = body.__globals__ | {
        "scaled_dot_product_attention": fused,
        "softmax": soft,
        "has_torch_function": lambda _: False,  # an outer attachment sees the call inside instead
    }
    copy = types.FunctionType(body.__code__, inside, body.__name__, body.__defaults__)
    copy.__kwdefaults__ = body.__kwdefaults__
    return copy(*args, **kwargs)


@contextmanager
def attach(
    sites: Mapping[nn.Module, AttentionSite | Sequence[AttentionSite]],
    handler: Handler,
    *,
    outermost: bool = False,
    owner: Owner | None = None,
) -> Iterator[None]:
    """Send every attention call of `sites` that `owner` makes through `handler`.

    By default the owner is who attaches. The handler returns what the call is to return.
    Attachments nest: the one made last sees a call first and hands on what it changed; an
    `outermost` one sees what all others have made of it. Hooks are gone when the body ends, also by
    an exception, or when attaching fails half-way.
    """
    attachment = Attachment(handler, outermost=outermost, owner=owner)
    try:
        attachment.add(sites)
        yield
    finally:
        attachment.remove()


class Attachment:
    """The hooks of `attach`; modules can be added while it is there."""

    def __init__(
        self, handler: Handler, *, outermost: bool = False, owner: Owner | None = None
    ) -> None:
        self.handler = handler
        self.outermost = outermost
        self.owner = owner or Owner()
        self.sites: dict[nn.Module, Sequence[AttentionSite]] = {}
        self.running: list[tuple[nn.Module, _Intercept]] = []
        self.modes: list[_Intercept] = []
        self.handles: list[Any] = []

    def add(self, sites: Mapping[nn.Module, AttentionSite | Sequence[AttentionSite]]) -> None:
        """Hook modules that are not hooked yet; the sites of the others are set anew."""
        for module, given in sites.items():
            known = module in self.sites
            self.sites[module] = (given,) if isinstance(given, AttentionSite) else tuple(given)
            if not known:
                before = module.register_forward_pre_hook(self.enter, prepend=self.outermost)
                self.handles.append(before)
                after = module.register_forward_hook(
                    self._leave, always_call=True, prepend=not self.outermost
                )
                self.handles.append(after)

    def remove(self) -> None:
        """Take everything away."""
        while self.modes:
            self._pop()
        while self.handles:
            self.handles.pop().remove()

    def enter(self, module: nn.Module, _: Any) -> None:
        """A module begins."""
        if self.owner.calls_again():
            mode = _Intercept(self.sites[module], self.handler, self.modes)
            mode.__enter__()
            self.running.append((module, mode))
            self.modes.append(mode)

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self.owner.calls_again() and self.running and self.running[-1][0] is module:
            self._pop()

    def _pop(self) -> None:
        self.running.pop()
        self.modes.pop().__exit__(None, None, None)
