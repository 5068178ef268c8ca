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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .owner import Owner, depth
from .sites import AttentionSite

SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax}


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
    def shape(self) -> tuple[int, ...]:
        """(B, H, Nq, Nk), or fewer axes where the call had fewer."""
        return (*self.query.shape[:-1], self.key.shape[-2])

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
        bias = bias.to(self.query.dtype)
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
    def shape(self) -> tuple[int, ...]:
        """(B, H, Nq, Nk)."""
        return tuple(self.scores.shape)

    def run(self) -> Tensor:
        """Make the call: the attention (B,H,Nq,Nk)."""
        return self.function(self.scores, *self.args, **self.kwargs)

    def add_bias(self, bias: Tensor, asking: Tensor | None = None) -> None:
        """Add `bias`, and only for the queries in `asking`, as `FusedCall.add_bias` does."""
        bias = bias.to(self.scores.dtype)
        self.scores = self.scores + (bias if asking is None else asking.to(bias) * bias)


Call = FusedCall | DenseCall
Handler = Callable[[AttentionSite, Call], Tensor]


class _Intercept(TorchFunctionMode):
    def __init__(self, site: AttentionSite, handler: Handler) -> None:
        super().__init__()
        self.site = site
        self.handler = handler
        self.level = depth()

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self.level:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self.handler(self.site, FusedCall(*args, **kwargs))
        if func in SOFTMAX and _over_keys(*args, **kwargs):
            return self.handler(self.site, _dense(func, args, kwargs))
        if func is F.multi_head_attention_forward:
            return _opened(self.site, self.handler, args, kwargs)
        return func(*args, **kwargs)


def _over_keys(scores: Any = None, dim: int | None = None, *_: Any, **named: Any) -> bool:
    scores = named.get("input", scores)
    return isinstance(scores, Tensor) and scores.ndim > 2 and dim in (-1, scores.ndim - 1)


def _dense(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DenseCall:
    if args:
        return DenseCall(args[0], func, args[1:], kwargs)
    rest = {name: value for name, value in kwargs.items() if name != "input"}
    return DenseCall(kwargs["input"], func, (), rest)


def _opened(
    site: AttentionSite, handler: Handler, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`F.multi_head_attention_forward` with the attention call inside it sent to `handler`.

    PyTorch's own code runs, with other globals: there its attention call and its softmax are the
    handler's. So nothing is replaced for anybody else, and nothing is written anew.
    """
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs).arguments
    number = given["num_heads"]

    def fused(*call: Any, **named: Any) -> Tensor:
        return handler(site, FusedCall(*call, **named))

    def soft(scores: Tensor, dim: int) -> Tensor:
        folded = scores.ndim == 3  # (B * heads, Nq, Nk)
        whole = scores.unflatten(0, (-1, number)) if folded else scores
        made = handler(site, DenseCall(whole, F.softmax, (dim,), {}))
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
    sites: dict[nn.Module, AttentionSite],
    handler: Handler,
    *,
    outermost: bool = False,
    owner: Owner | None = None,
) -> Iterator[set[nn.Module]]:
    """Send every attention call of `sites` that `owner` makes through `handler`.

    By default the owner is who attaches. The handler returns what the call is to return.
    Attachments nest: the one made last sees a call first and hands on what it changed; an
    `outermost` one sees what all others have made of it. Hooks are gone when the body ends, also by
    an exception, or when attaching fails half-way. What is handed over is the set of the modules
    that were entered so far.
    """
    owner = owner or Owner()
    modes: list[_Intercept] = []
    entered: set[nn.Module] = set()
    handles = []

    def enter(module: nn.Module, _: Any) -> None:
        if owner.calls_again():
            mode = _Intercept(sites[module], handler)
            mode.__enter__()
            modes.append(mode)
            entered.add(module)

    def leave(module: nn.Module, *_: Any) -> None:
        if owner.calls_again() and modes and modes[-1].site is sites[module]:
            modes.pop().__exit__(None, None, None)

    try:
        for module in sites:
            handles.append(module.register_forward_pre_hook(enter, prepend=outermost))
            handles.append(
                module.register_forward_hook(leave, always_call=True, prepend=not outermost)
            )
        yield entered
    finally:
        while modes:
            modes.pop().__exit__(None, None, None)
        for handle in handles:
            handle.remove()
