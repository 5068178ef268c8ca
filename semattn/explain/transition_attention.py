"""Transition attention maps (Yuan et al., 2021): attention as a Markov chain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, SiteRecord
from ..attention.attention_record import num_active_queries
from ..attention.propagation import missing_rules_note
from .attention_gradient import AttentionGradientExplainer
from .base import explainers
from .request import AttributionRequest, RelevanceMap, target_for_copies
from .rollout import layer_sites, mean_attention, pool_sites, propagate, require_layer_sites


@explainers.register("transition-attention")
class TransitionAttention(AttentionGradientExplainer):
    """State of a Markov chain over the layers, weighted by an integrated gradient.

    The state s starts as the row of the readout in the last layer's attention, averaged over heads,
    and becomes s + s A_l from layer to layer down to `start_layer`. The map is s times the mean
    over heads of relu(mean over alpha of dA(alpha x)): the same row of the last layer's gradient,
    integrated from a zero image to x.

    "Explaining Information Flow Inside Vision Transformers Using Markov Chain", XAI4Debugging
    workshop at NeurIPS 2021.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    start_layer : index in `layers` at which the propagation ends; None is a third of the depth
    steps : number of alpha from 0 to 1, each one forward pass
    options : gradient, "plain" or "lrp", as for `AttentionGradientExplainer`; and as for
        `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    All alpha use the same target, that of x. If the model has an attention pool, the row is that of
    its learned query, and all layers come before it.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> TransitionAttention(vit, steps=3).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "transition-attention"
    uses_keypoints = False
    default_layers = "all"

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        start_layer: int | None = None,
        steps: int = 20,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        if steps < 2:
            raise ValueError(f"steps: expected at least 2, got {steps}")
        if start_layer is not None and start_layer < 0:
            raise ValueError(f"start_layer: expected 0 or more, or None, got {start_layer}")
        self.start_layer = start_layer
        self.steps = steps

    def parameters(self) -> dict[str, Any]:
        """Return the settings of this explainer, ready for JSON."""
        return super().parameters() | {"start_layer": self.start_layer, "steps": self.steps}

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Compute the state of x times the integrated gradient."""
        record = request.record(layers=self.layers, grad="last")
        require_layer_sites(record, request.model, self.name)
        with torch.no_grad():
            gradient, without_rule = self._integrated_gradient(request, record)
            tokens = self._state(record) * gradient
        maps = self.from_patches(request, record, lambda _: record.grid.drop_prefix(tokens))
        return replace(maps, notes=missing_rules_note(without_rule))

    def _state(self, record: AttentionRecord) -> Tensor:
        """Compute the state (B, N) at `start_layer`."""
        depth = len(layer_sites(record))
        first_layer = depth // 3 if self.start_layer is None else self.start_layer
        if first_layer >= depth:
            raise ValueError(
                f"start_layer: expected one of the {depth} selected layers, 0 to {depth - 1}, "
                f"got {first_layer}"
            )
        readout = record.readout()
        states = [
            propagate(site, readout, mean_attention(site), few=True)
            for site in _readout_sites(record)
        ]
        tokens = torch.stack(states).mean(dim=0)
        earlier = layer_sites(record) if pool_sites(record) else layer_sites(record)[:-1]
        for site in reversed(earlier[first_layer:]):
            tokens = tokens + propagate(site, tokens, mean_attention(site))
        return tokens

    def _integrated_gradient(
        self, request: AttributionRequest, record: AttentionRecord
    ) -> tuple[Tensor, tuple[str, ...]]:
        """Compute the readout row of the integrated gradient of the last layer: (B, N).

        The second result are the names of the calls without a rule.
        """
        weights, target = record.readout(), target_for_copies(request, record.prediction)
        site_weights = [site.query_weights(weights) for site in _readout_sites(record)]
        query_slices = [slice(count) for count in num_active_queries(*site_weights)]
        totals: list[Any] = [0] * len(query_slices)
        for step in range(self.steps):
            scaled = request.record(
                inputs=request.inputs * step / (self.steps - 1),
                target=target,
                layers=[record.sites[-1].site.layer],
            )
            for i, site in enumerate(_readout_sites(scaled)):
                totals[i] = totals[i] + site.attention_gradient(query_slices[i])
        token_weights = []
        for site, queries, total in zip(_readout_sites(record), query_slices, totals, strict=True):
            positive = (total / self.steps).relu()
            row = site.query_weights(weights)[:, None, None, queries].to(positive) @ positive
            token_weights.append(site.keys_at.to_grid(row.squeeze(2)).mean(dim=1))
        return torch.stack(token_weights).mean(dim=0), scaled.without_rule


def _readout_sites(record: AttentionRecord) -> list[SiteRecord]:
    """Return the sites that the output is read from: pools, else the last layer."""
    return pool_sites(record) or layer_sites(record)[-1:]
