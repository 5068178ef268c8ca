"""Bias on the attention scores of a model while a context is open.

Adding b_j to the scores of key j multiplies its attention by e^b_j and renormalises. The bias is
passed in the `attn_mask` of the fused call, so fused kernels stay in use, and a bias per key is
never expanded to N x N. A bias for selected queries is passed as an additional channel of queries
and keys.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..utils.registry import unknown_name_message
from ..utils.validation import check_values
from .hooks import Attachment, Call
from .model_layout import ModelLayout, any_layout
from .scope import CallScope, in_backward
from .sites import AttentionSite, Layers, check_model, choose_layers, find_sites

QUERIES = ("all", "class", "patches")

OnCall = tuple[int, Callable[[AttentionSite, Call], None]]


@dataclass
class CallPlan:
    """Plan for one call: bias at the sites `steered`, `on_call` at the site `observed`."""

    steered: set[str]
    observed: str | None
    on_call: Callable[[AttentionSite, Call], None] | None
    layout: ModelLayout | None
    bias: Tensor | Callable[[], Tensor]
    bias_4d: Tensor | None  # the bias as (B, H, Q, N), once it is computed


class Steering:
    """Attachment that adds a bias to the scores of a model, with one plan for every call.

    The sites are those of the layout that `plan` receives. Before the first call they are those of
    any known layout of the model, else the modules whose names suggest attention.
    """

    def __init__(
        self, model: nn.Module, layers: Layers, heads: Sequence[int] | None, queries: str
    ) -> None:
        self.model = check_model(model)
        layout = any_layout(self.model)
        guess = find_sites(self.model) if layout is None else layout.modules(self.model)
        self.modules = {
            module: self_sites
            for module, sites in guess.items()
            if (
                self_sites := _self_attention_sites(
                    (sites,) if isinstance(sites, AttentionSite) else sites
                )
            )
        }
        if layout is not None and not self.modules:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: expected self-attention to steer, got attention "
                "pools only — choose a model with self-attention"
            )
        if self.modules:
            choose_layers(layers, sum(map(len, self.modules.values())))
        if queries not in QUERIES:
            raise ValueError(unknown_name_message("queries", queries, QUERIES))
        self.layers, self.heads, self.queries = layers, heads, queries
        self.plans: list[CallPlan | None] = []  # of the running calls, outermost first
        self.last: CallPlan | None = None
        self.attachment = Attachment(self._handle, scope=CallScope(include_nested=True))

    def begin(self) -> None:
        """Start a call of the model, possibly inside another; `plan` then sets its plan."""
        self.plans.append(None)

    def plan(
        self,
        bias: Tensor | Callable[[], Tensor],
        layout: ModelLayout | None = None,
        on_call: OnCall | None = None,
    ) -> None:
        """Set the plan of the call that has begun; parameters as in `steer`."""
        if layout is not None:
            if not layout.self_attention_sites:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__}: expected self-attention to steer, got attention "
                    "pools only — choose a model with self-attention"
                )
            self._attach_to(layout)
            names = [site.name for site in layout.self_attention_sites]
        elif self.queries != "all":
            raise ValueError(
                f"layout: expected a layout for queries={self.queries!r}, got None — "
                "pass model_layout(model, call)"
            )
        elif not self.modules:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: expected modules whose names suggest attention, got "
                "none — call record(model, x) first"
            )
        else:
            names = [site.name for sites in self.modules.values() for site in sites]
        self.last = self.plans[-1] = CallPlan(
            steered={names[number] for number in choose_layers(self.layers, len(names))},
            observed=None if on_call is None else names[on_call[0]],
            on_call=None if on_call is None else on_call[1],
            layout=layout,
            bias=bias,
            bias_4d=None if callable(bias) else _to_4d(bias),
        )

    def end(self) -> None:
        """Finish the call; its recomputation in a backward pass is still steered."""
        if self.plans:
            self.plans.pop()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Steer the calls inside the ``with``."""
        self.attachment = Attachment(self._handle, scope=CallScope(include_nested=True))
        try:
            self.attachment.add(self.modules)
            if not self.modules:
                self.attachment.add(_submodules(self.model))
            yield
        finally:
            self.attachment.remove()

    def _attach_to(self, layout: ModelLayout) -> None:
        """Hook the modules of a layout that are not hooked yet."""
        modules = {
            module: self_sites
            for module, sites in layout.modules(self.model).items()
            if (self_sites := _self_attention_sites(sites))
        }
        is_running = self.model in modules and self.model not in self.attachment.sites
        self.attachment.add(modules)
        if is_running:  # too late for a pre-hook of the model itself
            self.attachment.enter(self.model, ())

    def _handle(self, site: AttentionSite, call: Call) -> Tensor:
        plan = self.plans[-1] if self.plans else self.last if in_backward() else None
        if plan is None:
            raise UnsupportedModelError(
                f"{site}: expected a call of the whole prompted model, got a call of one of its "
                "submodules — call model(x)"
            )
        if plan.layout is not None and site.name not in plan.layout.layouts:
            return call.run()
        if plan.on_call is not None and site.name == plan.observed:
            plan.on_call(site, call)
        if site.name in plan.steered:
            if plan.bias_4d is None:
                assert callable(plan.bias)
                plan.bias_4d = _to_4d(plan.bias())
            _add_bias(site, call, plan.bias_4d, self.heads, self.queries, plan.layout)
        return call.run()


@contextmanager
def steer(
    model: nn.Module,
    bias: Tensor | Callable[[], Tensor],
    *,
    layers: Layers = None,
    heads: Sequence[int] | None = None,
    queries: str = "all",
    layout: ModelLayout | None = None,
    on_call: OnCall | None = None,
) -> Iterator[None]:
    """Add `bias` to the attention scores of `model` inside the ``with``.

    Contexts can be nested, and their biases add up. `record` inside the context records the steered
    attention. Gradients flow to the bias. Outside the context the model is unchanged.

    Parameters
    ----------
    model : a vision transformer
    bias : (N,) or (B, N), nats per key token, the same for every query; or (B|1, H|1, Q|1, N); or
        a function that returns it, called at the first steered attention call
    layers : self-attention layers to steer, see `choose_layers`; None is all
    heads : heads to steer; None is all
    queries : "all", "class" (only the class token) or "patches"; the last two need a `layout`
    layout : maps a bias (N,) or (B, N) on the tokens of its grid to every call; without it the
        bias is for N tokens in the order of the model, and every call must have these N keys
    on_call : a layer and a function that receives its calls before they are steered

    Raises
    ------
    ShapeError
        For a bias of another shape, immediately or when a site of another size is called.
    ValueError
        For a bias that is not finite, or for unknown layers, heads or queries.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> away = torch.zeros(17).index_fill(0, torch.arange(1, 9), -5.0)
    >>> with steer(vit, away, layers=[-1]):
    ...     logits = vit(torch.zeros(1, 3, 64, 64))
    """
    steering = Steering(model, layers, heads, queries)
    steering.begin()
    with steering.attached():
        steering.plan(bias, layout, on_call)
        yield


def _self_attention_sites(sites: Sequence[AttentionSite]) -> tuple[AttentionSite, ...]:
    return tuple(site for site in sites if site.kind == "self")


def _submodules(model: nn.Module) -> dict[nn.Module, AttentionSite]:
    """Return all submodules as sites of a model without a layout, to refuse a call of only one."""
    return {
        module: AttentionSite(name, 0, type(module).__name__, "self")
        for name, module in model.named_modules()
        if name
    }


def _add_bias(
    site: AttentionSite,
    call: Call,
    bias: Tensor,
    heads: Sequence[int] | None,
    queries: str,
    layout: ModelLayout | None,
) -> None:
    if layout is None:
        call.add_bias(_bias_of_call(site, call, bias, heads))
        return
    per_head = bias[:, :, 0]
    if heads is not None:
        count = layout.layouts[site.name].heads_of(call.shape[:-2])
        per_head = per_head * _head_mask(site, heads, count, bias)[:, :, 0]
    query_mask = None if queries == "all" else layout.query_mask(site, call, queries)
    call.add_bias(layout.place(site, call, per_head), query_mask)


def _to_4d(bias: Tensor) -> Tensor:
    """Check a bias of any shape that `steer` accepts and return it as (B, H, Q, N)."""
    check_values("bias", bias)
    if not bias.detach().isfinite().all():
        raise ValueError("bias: expected finite numbers, got NaN or infinity — clip it first")
    if bias.ndim == 1:
        return bias[None, None, None]
    if bias.ndim == 2:
        return bias[:, None, None]
    if bias.ndim == 4:
        return bias
    raise ShapeError(
        f"bias: expected (N,), (B, N) or (B, H, Q, N), got {tuple(bias.shape)} — "
        "one number per key token"
    )


def _bias_of_call(
    site: AttentionSite, call: Call, bias: Tensor, heads: Sequence[int] | None
) -> Tensor:
    fits = len(bias.shape) == len(call.shape) and all(
        size in (1, call_size) for size, call_size in zip(bias.shape, call.shape, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"bias: expected a shape that broadcasts to attention {call.shape} of {site}, "
            f"got {tuple(bias.shape)} — one number per token, prefix tokens included"
        )
    return bias if heads is None else bias * _head_mask(site, heads, call.shape[1], bias)


def _head_mask(site: AttentionSite, heads: Sequence[int], count: int, bias: Tensor) -> Tensor:
    """Return 1 for the selected heads, else 0: (1, H, 1, 1)."""
    numbers = list(heads) if isinstance(heads, Iterable) else [heads]
    if not numbers or not all(isinstance(head, int) and -count <= head < count for head in numbers):
        raise ValueError(
            f"heads: expected numbers in 0 … {count - 1}, got {reprlib.repr(heads)} — {site} has "
            f"{count} heads"
        )
    mask = torch.zeros(1, count, 1, 1, dtype=bias.dtype, device=bias.device)
    mask[:, numbers] = 1
    return mask
