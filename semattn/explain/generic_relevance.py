"""Generic attention-model explainability (Chefer et al., arXiv 2103.15679)."""

from __future__ import annotations

from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import FusedAttention, initial_weights, layer_sites, pool_sites, propagate


@explainers.register("generic-relevance")
class GenericRelevance(Explainer):
    """Relevance that accumulates over the layers.

    R starts as I and becomes R + mean_h(relu(A * dA)) R at every layer, with A the attention after
    softmax and dA the gradient of the target with respect to it; the map is the readout's row of R.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as for `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Only the row is computed: v becomes v + v mean_h(relu(A * dA)) from the last layer to the first.
    The paper reads a class token. If the output is read from the patches, the part of I, which is
    the same for all patches, is subtracted. If the model has an attention pool, its row is the
    first.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GenericRelevance(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "generic-relevance"
    uses_keypoints = False
    default_layers = "all"

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the row of R at the readout, (B, P)."""
        tokens = initial_weights(record, _positive_attention)
        identity_part = 0 if pool_sites(record) else tokens
        for site in reversed(layer_sites(record)):
            tokens = tokens + propagate(site, tokens, _positive_attention(site))
        return record.grid.drop_prefix(tokens - identity_part)


def _positive_attention(site: SiteRecord) -> FusedAttention:
    """Return the function that computes mean_h(relu(A * dA)) of a site."""
    return lambda rows: site.attention(rows).mul_(site.attention_gradient(rows)).relu_().mean(dim=1)
