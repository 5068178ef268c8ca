"""One recorded forward pass: the attention calls, their results and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..grid import PatchGrid
from .hooks import Call, attach
from .model_layout import ModelLayout
from .model_pass import gradients_of
from .site_record import SiteRecord, site_record
from .sites import AttentionSite, Layers, choose_layers


class StaleLayoutError(Exception):
    """Mismatch between the attention calls of a model and its layout."""


class Recorder:
    """Store of the calls of the chosen layers; the autograd graph starts at the first of them.

    Parameters
    ----------
    layout : the sites that count as attention
    layers : the layers to record
    grad : as for `record`
    also : sites that are left out so far; their gradients decide whether they count
    """

    def __init__(
        self,
        layout: ModelLayout,
        layers: Layers,
        grad: bool | str,
        also: Sequence[AttentionSite] = (),
    ) -> None:
        self.layout = layout
        selves = layout.self_attention_sites
        numbers = set(choose_layers(layers, max(len(selves), 1)))
        self.recorded = {site for site in layout.sites if site.layer in numbers}
        self.last = selves[-1] if selves else None
        self.also = set(also)
        pools = {site for site in layout.sites if site.kind == "pool"}
        self.ends = {*selves[-1:], *pools} if grad else set()
        ends = self.ends | (self.also if grad else set())
        self.watched = self.recorded | ends
        self.differentiated = self.watched if grad is True else ends
        self.open = True
        self.calls: dict[AttentionSite, Call] = {}
        self.shapes: dict[AttentionSite, tuple[int, ...]] = {}
        self.results: dict[AttentionSite, Tensor] = {}

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Record what the model calls inside the ``with``."""

        def handle(site: AttentionSite, call: Call) -> Tensor:
            if self.open:
                self._note(site, call)
            return self._run(site, call)

        modules = self.layout.modules(model)
        for site in self.also:
            module = model.get_submodule(site.path)
            modules[module] = (*modules.get(module, ()), site)
        with attach(modules, handle, outermost=True):
            yield

    def _note(self, site: AttentionSite, call: Call) -> None:
        if site in self.shapes:
            raise StaleLayoutError(f"{site}: a second call of {call.shape}")
        self.shapes[site] = call.shape
        expected = self.layout.shapes[site.name]
        if call.shape[-2:] != expected:
            raise StaleLayoutError(f"{site}: {call.shape} in place of {expected}")

    def _run(self, site: AttentionSite, call: Call) -> Tensor:
        result = call.run()
        if site not in self.watched:
            return result
        if site in self.differentiated and not result.requires_grad:
            result = result.detach().requires_grad_()  # start of the autograd graph
        if self.open:
            self.calls[site] = call
            self.results[site] = result
        return result

    def check_called(self) -> None:
        """Raise StaleLayoutError for a site without a call."""
        for site in self.layout.sites:
            if site not in self.shapes:
                raise StaleLayoutError(f"{site}: no call")

    def differentiate(
        self, scores: Tensor, dtype: torch.dtype, *, ends: bool = False
    ) -> dict[AttentionSite, Tensor | None]:
        """Return dL/dO (or dL/dA) of the differentiated sites; None where L does not depend on it.

        With `ends`, only of the last self-attention layer and the pools; the graph is then kept.
        """
        differentiated = self.ends if ends else self.differentiated
        sites = [site for site in self.results if site in differentiated]
        if not scores.requires_grad:
            return dict.fromkeys(sites)
        results = [self.results[site] for site in sites]
        gradients = gradients_of(scores, results, dtype, "model output", retain_graph=ends)
        return dict(zip(sites, gradients, strict=True))

    def keep(
        self, site: AttentionSite, grid: PatchGrid, batch: int, gradient: Tensor | None
    ) -> SiteRecord:
        """Return the record of one site, with its tokens placed on `grid`."""
        call, result = self.calls[site], self.results[site].detach()
        layout = self.layout.layouts[site.name]
        return site_record(site, call, layout, grid, batch, result, gradient)
