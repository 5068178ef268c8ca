"""Rollout of attention weighted by its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import Fused, layers, readers, roll, start


@explainers.register("gradient-rollout")
class GradientRollout(Explainer):
    """Rollout that keeps what speaks for the target: attention times its gradient.

    The row of the readout in M_L ... M_1, where M_l is relu(mean_h(A * dA)) + I with rows divided
    by their sums, A the attention after softmax and dA the gradient of the target with respect
    to it.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Rollout is arXiv 2005.00928; its weighting by the gradient is that of J. Gildenblat's
    vit-explain, here without discarding. Where the answer is read from the patches alike, what
    never leaves its patch is taken off: it is there whatever the model looks at.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GradientRollout(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "gradient-rollout"
    uses_keypoints = False
    usual_layers = "all"

    def relevance(self, taken: AttentionRecord, _p: Tensor) -> Tensor:
        """The rolled-out row (B, P)."""
        tokens = start(taken, _weighted)
        own = torch.zeros_like(tokens) if readers(taken) else tokens
        for one in reversed(layers(taken)):
            moved, stays = roll(one, tokens, _weighted(one))
            tokens, own = moved + tokens * stays, own * stays
        return taken.grid.drop_prefix(tokens - own)


def _weighted(one: SiteRecord) -> Fused:
    """relu(mean_h(A * dA))."""
    return lambda rows: one.attention(rows).mul_(one.attention_gradient(rows)).mean(dim=1).relu_()
