"""What `record` keeps of a forward pass: each call, its result, and what the score owes to it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..grid import PatchGrid
from .intercept import Call, DenseCall, FusedCall, attach
from .layout import Layout, follow, plain
from .patches import PatchWatch
from .rows import SiteRecord
from .sites import AttentionSite, Layers, choose_layers

# Of the score in fp16, so that its gradients neither vanish nor overflow; powers of two are exact.
_HALF_SCALES = (2.0**10, 1.0, 2.0**-10)


class Recorder:
    """Keeps the calls of the sites in `layers`, and lets the graph begin at the first of them."""

    def __init__(
        self, sites: Mapping[nn.Module, AttentionSite], layers: Layers, grad: bool | str
    ) -> None:
        self.sites = dict(sites)
        selves = [site for site in sites.values() if site.kind == "self"]
        if not selves:
            names = ", ".join(map(str, sites.values()))
            raise UnsupportedModelError(
                f"model: expected self-attention over patches, got only pools ({names}) — "
                "this kind is not supported"
            )
        numbers = set(choose_layers(layers, len(selves)))
        self.wanted = {site for site in sites.values() if site.layer in numbers}
        self.last = selves[-1]
        watched = self.wanted | ({self.last} if grad else set())
        self.watched = watched
        self.differentiated = watched if grad is True else {self.last} if grad else set()
        self.open = True
        self.calls: dict[AttentionSite, Call] = {}
        self.shapes: dict[AttentionSite, tuple[int, ...]] = {}
        self.results: dict[AttentionSite, Tensor] = {}

    @contextmanager
    def attached(self, patches: PatchWatch) -> Iterator[set[nn.Module]]:
        """Record what the model calls inside the ``with``; hands over the sites it has entered."""

        def handle(site: AttentionSite, call: Call) -> Tensor:
            if self.open:
                patches.open = False  # what comes after the first attention cuts no patches
                self._note(site, call)
            return self._run(site, call)

        with attach(self.sites, handle, outermost=True) as entered:
            yield entered

    def _note(self, site: AttentionSite, call: Call) -> None:
        if site in self.shapes:
            raise UnsupportedModelError(
                f"{site}: expected one attention call a forward pass, got a second one on "
                f"{call.shape} — differential and shared attention are not supported"
            )
        self.shapes[site] = call.shape

    def _run(self, site: AttentionSite, call: Call) -> Tensor:
        result = call.run()
        if site not in self.watched:
            return result
        if site in self.differentiated and not result.requires_grad:
            result = result.detach().requires_grad_()  # here the graph begins
        if self.open:
            self.calls[site] = call
            self.results[site] = result
        return result

    def check_called(self) -> None:
        """Raise UnsupportedModelError for a site that was entered but made no call that is seen."""
        for site in self.sites.values():
            if site not in self.shapes:
                raise UnsupportedModelError(
                    f"{site}: expected a call of scaled_dot_product_attention or softmax, "
                    "got none — flash, flex and skipped attention are not supported"
                )

    def layouts(
        self, model: nn.Module, inputs: Tensor, extra: tuple[Any, ...], patches: PatchWatch
    ) -> dict[AttentionSite, Layout]:
        """How every call lays out its tokens: all at once, or as `follow` finds it to be."""
        if self._all_at_once(len(inputs)):
            tokens = self.shapes[self.last][-1]
            try:
                grid = patches.grid(model, (inputs.shape[-2], inputs.shape[-1]), tokens)
            except UnsupportedModelError:
                pass  # cut in another way: followed below
            else:
                return {
                    site: plain(grid, self.shapes[site][-1], site.kind == "pool")
                    for site in self.sites.values()
                }
        with torch.set_grad_enabled(False):
            return follow(model, inputs, extra, self.sites)

    def _all_at_once(self, batch: int) -> bool:
        """Whether every layer attends over the same tokens of an image, all at once."""
        tokens = self.shapes[self.last][-1]
        return all(
            len(shape) == 4
            and shape[0] == batch
            and (site.kind == "pool" or shape[2] == shape[3] == tokens)
            for site, shape in self.shapes.items()
        )

    def differentiate(self, chosen: Tensor, dtype: torch.dtype) -> dict[AttentionSite, Tensor]:
        """dL/dO (or dL/dA) of every site that is to be differentiated."""
        if not chosen.requires_grad:
            names = ", ".join(str(site) for site in self.results)
            raise UnsupportedModelError(
                f"model output: expected it to depend on {names}, got no gradient — "
                "the model detaches its output or runs without gradients"
            )
        scales = _HALF_SCALES if dtype == torch.float16 else (1.0,)
        sites = [site for site in self.results if site in self.differentiated]
        watched = [self.results[site] for site in sites]
        for scale in scales:
            found = torch.autograd.grad(
                chosen.sum() * scale, watched, allow_unused=True, retain_graph=scale != scales[-1]
            )
            for site, gradient in zip(sites, found, strict=True):
                if gradient is None:
                    raise UnsupportedModelError(
                        f"{site}: expected a gradient of the output, got none — "
                        "the output does not depend on this layer"
                    )
            if all(bool(gradient.isfinite().all()) for gradient in found):
                break
        else:
            raise UnsupportedModelError(
                "model output: expected finite gradients, got NaN or infinity — "
                "check the weights and the input, or run the model in float32"
            )
        exact = torch.promote_types(dtype, torch.float32)
        return {
            site: gradient if scale == 1.0 else gradient.to(exact) / scale
            for site, gradient in zip(sites, found, strict=True)
        }

    def reads_first(self, layout: Layout, gradient: Tensor | None, batch: int) -> Tensor:
        """Whether the gradient at the last layer reaches the first prefix token, (B,)."""
        asked = layout.queries
        if gradient is None or asked is None or not asked.grid.prefix:
            some = next(iter(self.results.values()))
            return torch.zeros(batch, dtype=torch.bool, device=some.device)
        reached = layout.fold(gradient, self.shapes[self.last][:-2]).ne(0).any(dim=3).any(dim=1)
        placed = layout.place(asked, asked.grid, batch).collect(reached[:, None].float())
        return placed[:, 0, 0] > 0

    def keep(
        self,
        site: AttentionSite,
        layout: Layout,
        grid: PatchGrid,
        batch: int,
        gradient: Tensor | None,
    ) -> SiteRecord:
        """The record of one site, with its tokens placed on `grid`."""
        call, result = self.calls[site], self.results[site].detach()
        return site_record(site, call, layout, grid, batch, result, gradient)


def site_record(
    site: AttentionSite,
    call: Call,
    layout: Layout,
    grid: PatchGrid,
    batch: int,
    result: Tensor | None = None,
    gradient: Tensor | None = None,
) -> SiteRecord:
    """The record of one call, with its tokens placed on `grid`; a dense one is its `result`."""
    assert layout.keys is not None
    lead = tuple(call.shape[:-2])
    at = layout.place(layout.keys, grid, batch)
    asking = None if layout.queries is None else layout.place(layout.queries, grid, batch)
    gradient = None if gradient is None else layout.fold(gradient, lead)
    if isinstance(call, DenseCall):
        dense = layout.fold(call.run().detach() if result is None else result, lead)
        shape = (*dense.shape[:2], call.shape[-2], call.shape[-1])
        return SiteRecord(site, shape, at, asking, dense=dense, gradient=gradient, layout=layout)
    query = layout.fold(call.query.detach(), lead)
    mask = None if call.attn_mask is None else call.attn_mask.detach()
    return SiteRecord(
        site,
        (*query.shape[:2], call.shape[-2], call.shape[-1]),
        at,
        asking,
        query=query,
        key=layout.fold(_per_head(call, call.key), lead),
        value=layout.fold(_per_head(call, call.value), lead),
        mask=None if mask is None else layout.fold(mask, lead),
        causal=call.is_causal,
        scale=1 / math.sqrt(call.query.shape[-1]) if call.scale is None else call.scale,
        gradient=gradient,
        layout=layout,
    )


def _per_head(call: FusedCall, shared: Tensor) -> Tensor:
    """Keys or values (B,H,N,D), repeated where several heads share one (grouped queries)."""
    times = call.query.shape[1] // shared.shape[1] if shared.ndim == 4 else 1
    return shared.detach() if times == 1 else shared.detach().repeat_interleave(times, dim=1)
