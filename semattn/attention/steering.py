"""A bias added to the attention scores of a model, for as long as a context is open.

Adding b_j to the scores of key j multiplies its attention by e^b_j and renormalises. The bias
rides on the `attn_mask` of the fused call, so fused kernels stay on, and a bias per key is never
expanded to N x N; for some queries alone it rides on one more channel of queries and keys.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..utils.registry import choices
from ..utils.validation import check_values
from .hooks import Attachment, Call
from .model_layout import ModelLayout, any_layout
from .scope import Owner, in_backward
from .sites import AttentionSite, Layers, choose_layers, find_sites, refuse

QUERIES = ("all", "class", "patches")

Look = tuple[int, Callable[[AttentionSite, Call], None]]


@dataclass
class Aim:
    """What one call of a model gets: `bias` in the layers `wanted`, and who `looks` at which."""

    wanted: set[str]
    looked: str | None
    look: Callable[[AttentionSite, Call], None] | None
    layout: ModelLayout | None
    bias: Tensor | Callable[[], Tensor]
    made: Tensor | None  # the bias, spread


class Steering:
    """An attachment that adds a bias to the scores of a model, aimed anew for every call of it.

    The sites are those of the layout that a call is aimed with. Before the first one they are those
    of any layout that is known of the model, else the modules that are named for attention.
    """

    def __init__(
        self, model: nn.Module, layers: Layers, heads: Sequence[int] | None, queries: str
    ) -> None:
        self.model = refuse(model)
        known = any_layout(self.model)
        guess = find_sites(self.model) if known is None else known.modules(self.model)
        self.modules = {
            module: selves
            for module, sites in guess.items()
            if (selves := _selves((sites,) if isinstance(sites, AttentionSite) else sites))
        }
        if known is not None and not self.modules:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: expected self-attention to steer, got only pools"
            )
        if self.modules:
            choose_layers(layers, sum(map(len, self.modules.values())))
        if queries not in QUERIES:
            raise ValueError(choices("queries", queries, QUERIES))
        self.layers, self.heads, self.queries = layers, heads, queries
        self.aims: list[Aim | None] = []  # of the calls under way, one within the other
        self.last: Aim | None = None
        self.attachment = Attachment(self._handle, owner=Owner(every_pass=True))

    def begin(self) -> None:
        """A call of the model begins, for which `aim` says what it gets; it may be in another."""
        self.aims.append(None)

    def aim(
        self,
        bias: Tensor | Callable[[], Tensor],
        layout: ModelLayout | None = None,
        look: Look | None = None,
    ) -> None:
        """Set what the call that has begun gets; parameters as of `steer`."""
        if layout is not None:
            if not layout.selves:
                raise UnsupportedModelError(
                    f"{type(self.model).__name__}: expected self-attention to steer, got only pools"
                )
            self._attach_to(layout)
            names = [site.name for site in layout.selves]
        elif self.queries != "all":
            raise ValueError(
                f"layout: expected one for queries={self.queries!r}, got None — "
                "model_layout(model, call)"
            )
        elif not self.modules:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: expected a model whose attention is known, got none "
                "that is named for it — call record(model, x) first"
            )
        else:
            names = [site.name for sites in self.modules.values() for site in sites]
        self.last = self.aims[-1] = Aim(
            wanted={names[number] for number in choose_layers(self.layers, len(names))},
            looked=None if look is None else names[look[0]],
            look=None if look is None else look[1],
            layout=layout,
            bias=bias,
            made=None if callable(bias) else spread(bias),
        )

    def end(self) -> None:
        """The call is over; what a backward pass makes again of it is still steered."""
        if self.aims:
            self.aims.pop()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside the ``with``, calls are steered."""
        self.attachment = Attachment(self._handle, owner=Owner(every_pass=True))
        try:
            self.attachment.add(self.modules)
            if not self.modules:
                self.attachment.add(_parts(self.model))
            yield
        finally:
            self.attachment.remove()

    def _attach_to(self, layout: ModelLayout) -> None:
        """Hook the modules of a layout that are not hooked yet."""
        modules = {
            module: selves
            for module, sites in layout.modules(self.model).items()
            if (selves := _selves(sites))
        }
        entered = self.model in modules and self.model not in self.attachment.sites
        self.attachment.add(modules)
        if entered:  # its own pre-hooks are running
            self.attachment.enter(self.model, ())

    def _handle(self, site: AttentionSite, call: Call) -> Tensor:
        aim = self.aims[-1] if self.aims else self.last if in_backward() else None
        if aim is None:
            raise UnsupportedModelError(
                f"{site}: expected the prompted model to be called as a whole, got a call of a "
                "part of it — call model(x)"
            )
        if aim.layout is not None and site.name not in aim.layout.layouts:
            return call.run()
        if aim.look is not None and site.name == aim.looked:
            aim.look(site, call)
        if site.name in aim.wanted:
            if aim.made is None:
                assert callable(aim.bias)
                aim.made = spread(aim.bias())
            _add(site, call, aim.made, self.heads, self.queries, aim.layout)
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
    look: Look | None = None,
) -> Iterator[None]:
    """Add `bias` to the attention scores of `model` inside the ``with``.

    Contexts nest and add up; a record made inside sees the steered attention. Gradients flow to
    the bias. Outside the context the model is as before.

    Parameters
    ----------
    model : a vision transformer
    bias : (N,) or (B, N), nats per key token, the same for every query; or (B|1, H|1, Q|1, N); or
        a function that gives it when the first call that it is for is made
    layers : which self-attention layers, see `choose_layers`; None is all
    heads : which heads; None is all
    queries : "all", "class" (the class token's alone) or "patches"; the last two need a `layout`
    layout : brings a bias (N,) or (B, N) on the tokens of its grid to every call; without it the
        bias is for the N tokens as they come, and every call must be over these
    look : a layer, and what is to see its calls before they are steered

    Raises
    ------
    ShapeError
        For a bias of another shape, at once or when a site of another size is called.
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
        steering.aim(bias, layout, look)
        yield


def _selves(sites: Sequence[AttentionSite]) -> tuple[AttentionSite, ...]:
    return tuple(site for site in sites if site.kind == "self")


def _parts(model: nn.Module) -> dict[nn.Module, AttentionSite]:
    """The parts of a model whose attention is not known yet, so that none is called by itself."""
    return {
        part: AttentionSite(name, 0, type(part).__name__, "self")
        for name, part in model.named_modules()
        if name
    }


def _add(
    site: AttentionSite,
    call: Call,
    bias: Tensor,
    heads: Sequence[int] | None,
    queries: str,
    layout: ModelLayout | None,
) -> None:
    if layout is None:
        call.add_bias(_fit(site, call, bias, heads))
        return
    per_head = bias[:, :, 0]
    if heads is not None:
        count = layout.layouts[site.name].heads_of(call.shape[:-2])
        per_head = per_head * _chosen(site, heads, count, bias)[:, :, 0]
    asking = None if queries == "all" else layout.asking(site, call, queries)
    call.add_bias(layout.place(site, call, per_head), asking)


def spread(bias: Tensor) -> Tensor:
    """A bias of any shape that `steer` takes as (B, H, Q, N), checked."""
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
        "one number a key token"
    )


def _fit(site: AttentionSite, call: Call, bias: Tensor, heads: Sequence[int] | None) -> Tensor:
    fits = len(bias.shape) == len(call.shape) and all(
        given in (1, needed) for given, needed in zip(bias.shape, call.shape, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"bias: expected to fit attention {call.shape} of {site}, "
            f"got {tuple(bias.shape)} — one number a token, prefix tokens included"
        )
    return bias if heads is None else bias * _chosen(site, heads, call.shape[1], bias)


def _chosen(site: AttentionSite, heads: Sequence[int], count: int, bias: Tensor) -> Tensor:
    """1 for the chosen heads, (1, H, 1, 1)."""
    numbers = list(heads) if isinstance(heads, Iterable) else [heads]
    if not numbers or not all(isinstance(one, int) and -count <= one < count for one in numbers):
        raise ValueError(
            f"heads: expected some of 0 … {count - 1}, got {reprlib.repr(heads)} — {site} has "
            f"{count} heads"
        )
    chosen = torch.zeros(1, count, 1, 1, dtype=bias.dtype, device=bias.device)
    chosen[:, numbers] = 1
    return chosen
