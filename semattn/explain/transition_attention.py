"""Transition attention maps (Yuan et al., 2021): attention as a Markov chain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, SiteRecord
from ..attention.site_record import last_asking
from .asked import asked
from .base import Explainer, Maps, Run, explainers
from .rollout import Fused, carry, layers, readers


@explainers.register("transition-attention")
class TransitionAttention(Explainer):
    """The readout's state moved back through the layers, weighted by an integrated gradient.

    The state starts as the readout's row of the last layer's attention, averaged over heads, and
    becomes s + s A_l from layer to layer down to `start_layer`. The map is s times the mean over
    heads of relu(mean over alpha of dA(alpha x)), the same row of the last layer's gradient along
    the way from a zero image to x.

    "Explaining Information Flow Inside Vision Transformers Using Markov Chain", XAI4Debugging
    workshop at NeurIPS 2021.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    start_layer : the first of the chosen layers that the state goes back to; None is a third in
    steps : how many alpha from 0 to 1, each one forward pass
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    All alpha are asked for the same target, that of x. With an attention pool the row is that of
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
    usual_layers = "all"

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
            raise ValueError(f"steps: expected 2 at least, from a zero image to x, got {steps}")
        if start_layer is not None and start_layer < 0:
            raise ValueError(f"start_layer: expected 0 or more, or None, got {start_layer}")
        self.start_layer = start_layer
        self.steps = steps

    def parameters(self) -> dict[str, Any]:
        """What this explainer was set to, ready for JSON."""
        return super().parameters() | {"start_layer": self.start_layer, "steps": self.steps}

    def maps(self, run: Run) -> Maps:
        """The state of x, times the integrated gradient on the way to x."""
        taken = run.record(layers=self.layers, grad="last")
        with torch.no_grad():
            tokens = self._state(taken) * self._integrated(run, taken)
        return self.from_patches(run, taken, lambda _: taken.grid.drop_prefix(tokens))

    def _state(self, taken: AttentionRecord) -> Tensor:
        """Where the readout's state comes from (B, N)."""
        depth = len(layers(taken))
        first = depth // 3 if self.start_layer is None else self.start_layer
        if first >= depth:
            raise ValueError(
                f"start_layer: expected one of the {depth} chosen layers, 0 to {depth - 1}, "
                f"got {first}"
            )
        states = [carry(one, taken.readout(), _mean(one)) for one in _last(taken)]
        tokens = torch.stack(states).mean(dim=0)
        before = layers(taken) if readers(taken) else layers(taken)[:-1]
        for one in reversed(before[first:]):
            tokens = tokens + carry(one, tokens, _mean(one))
        return tokens

    def _integrated(self, run: Run, taken: AttentionRecord) -> Tensor:
        """The readout's row of the last layer's integrated gradient, heads averaged: (B, N)."""
        weights, target = taken.readout(), asked(run, taken)
        rows = [slice(last_asking(one.asking(weights))) for one in _last(taken)]
        totals: list[Any] = [0] * len(rows)
        for step in range(self.steps):
            scaled = run.record(
                inputs=run.inputs * step / (self.steps - 1),
                target=target,
                layers=[taken.sites[-1].site.layer],
            )
            for number, one in enumerate(_last(scaled)):
                totals[number] = totals[number] + one.attention_gradient(rows[number])
        found = []
        for one, asking, total in zip(_last(taken), rows, totals, strict=True):
            positive = (total / self.steps).relu()
            row = one.asking(weights)[:, None, None, asking].to(positive) @ positive
            found.append(one.keys_at.collect(row.squeeze(2)).mean(dim=1))
        return torch.stack(found).mean(dim=0)


def _last(taken: AttentionRecord) -> list[SiteRecord]:
    """The sites that the answer is read from: pools, else the last layer."""
    return readers(taken) or layers(taken)[-1:]


def _mean(one: SiteRecord) -> Fused:
    return lambda rows: one.attention(rows).mean(dim=1)
