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

from ..checks import check_values
from ..errors import ShapeError, UnsupportedModelError
from ..registry import choices
from .intercept import Call, attach
from .owner import Owner, in_backward
from .sites import AttentionSite, Layers, choose_layers, find_sites, refuse
from .survey import Survey

QUERIES = ("all", "class", "patches")

Look = tuple[int, Callable[[AttentionSite, Call], None]]


@dataclass
class Aim:
    """What one call of a model gets: `bias` in the layers `wanted`, and who `looks` at which."""

    wanted: set[str]
    looked: str | None
    look: Callable[[AttentionSite, Call], None] | None
    survey: Survey | None
    bias: Tensor | Callable[[], Tensor]
    made: Tensor | None  # the bias, spread


class Steering:
    """An attachment that adds a bias to the scores of a model, aimed anew for every call of it."""

    def __init__(
        self, model: nn.Module, layers: Layers, heads: Sequence[int] | None, queries: str
    ) -> None:
        module = refuse(model)
        self.sites = {one: site for one, site in find_sites(module).items() if site.kind == "self"}
        if not self.sites:
            raise UnsupportedModelError(
                f"{type(module).__name__}: expected self-attention to steer, got only pools"
            )
        choose_layers(layers, len(self.sites))
        if queries not in QUERIES:
            raise ValueError(choices("queries", queries, QUERIES))
        self.layers, self.heads, self.queries = layers, heads, queries
        self.aims: list[Aim | None] = []  # of the calls under way, one within the other
        self.last: Aim | None = None

    def begin(self) -> None:
        """A call of the model begins, for which `aim` says what it gets; it may be in another."""
        self.aims.append(None)

    def aim(
        self,
        bias: Tensor | Callable[[], Tensor],
        survey: Survey | None = None,
        look: Look | None = None,
    ) -> None:
        """What the call that has begun gets; parameters as of `steer`."""
        names = [site.name for site in self.sites.values()]
        if survey is not None:
            names = [name for name in names if name in survey.layouts]
        elif self.queries != "all":
            raise ValueError(
                f"survey: expected one for queries={self.queries!r}, got None — survey(model, x)"
            )
        self.last = self.aims[-1] = Aim(
            wanted={names[number] for number in choose_layers(self.layers, len(names))},
            looked=None if look is None else names[look[0]],
            look=None if look is None else look[1],
            survey=survey,
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
        with attach(self.sites, self._handle, owner=Owner(every_pass=True)):
            yield

    def _handle(self, site: AttentionSite, call: Call) -> Tensor:
        aim = self.aims[-1] if self.aims else self.last if in_backward() else None
        if aim is None:
            raise UnsupportedModelError(
                f"{site}: expected the prompted model to be called as a whole, got a call of a "
                "part of it — call model(x)"
            )
        if aim.look is not None and site.name == aim.looked:
            aim.look(site, call)
        if site.name in aim.wanted:
            if aim.made is None:
                assert callable(aim.bias)
                aim.made = spread(aim.bias())
            _add(site, call, aim.made, self.heads, self.queries, aim.survey)
        return call.run()


@contextmanager
def steer(
    model: nn.Module,
    bias: Tensor | Callable[[], Tensor],
    *,
    layers: Layers = None,
    heads: Sequence[int] | None = None,
    queries: str = "all",
    survey: Survey | None = None,
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
    queries : "all", "class" (the class token's alone) or "patches"; the last two need a `survey`
    survey : brings a bias (N,) or (B, N) on the tokens of its grid to the calls of models with
        windows or several grids; without it every call must be over the N tokens
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
    steering.aim(bias, survey, look)
    with steering.attached():
        yield


def _add(
    site: AttentionSite,
    call: Call,
    bias: Tensor,
    heads: Sequence[int] | None,
    queries: str,
    survey: Survey | None,
) -> None:
    if survey is None:
        call.add_bias(_fit(site, call, bias, heads))
        return
    per_head = bias[:, :, 0]
    if heads is not None:
        layout = survey.layouts[site.name]
        chosen = _chosen(site, heads, layout.heads_of(call.shape[:-2]), bias)
        per_head = per_head * chosen[:, :, 0]
    asking = None if queries == "all" else survey.asking(site, call, queries)
    call.add_bias(survey.place(site, call, per_head), asking)


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
