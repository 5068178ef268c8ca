"""Rollout of attention weighted by its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import FusedAttention, initial_weights, layer_sites, pool_sites, rollout_step


@explainers.register("gradient-rollout")
class GradientRollout(Explainer):
    """Rollout of the positive part of attention times its gradient for the target.

    The map is the row of the readout in M_L ... M_1, where M_l is relu(mean_h(A * dA)) + I with
    rows divided by their sums, A the attention after softmax and dA the gradient of the target with
    respect to it.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as for `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Rollout is arXiv 2005.00928; the weighting by the gradient follows J. Gildenblat's vit-explain,
    without discarding. The weight that never leaves its token through I is subtracted, because it
    does not depend on attention.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GradientRollout(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "gradient-rollout"
    uses_keypoints = False
    default_layers = "all"

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the rollout row (B, P)."""
        tokens = initial_weights(record, _weighted_attention)
        never_moved = torch.zeros_like(tokens) if pool_sites(record) else tokens
        for site in reversed(layer_sites(record)):
            moved, retained = rollout_step(site, tokens, _weighted_attention(site))
            tokens, never_moved = moved + tokens * retained, never_moved * retained
        return record.grid.drop_prefix(tokens - never_moved)


def _weighted_attention(site: SiteRecord) -> FusedAttention:
    """Return the function that computes relu(mean_h(A * dA)) of a site."""
    return lambda rows: site.attention(rows).mul_(site.attention_gradient(rows)).mean(dim=1).relu_()
