"""Raw attention of the last layer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import FusedAttention, layer_sites, pool_sites, propagate


@explainers.register("raw-attention")
class RawAttention(Explainer):
    """Attention of the last layer, averaged over heads, in the rows that the output is read from.

    Each row has as weight the part of the output that is read from it (`AttentionRecord.readout`):
    the row of the class token, rows of several prefix tokens, or rows of the patches. If an
    attention pool comes last, it is the row of its learned query. The map does not depend on the
    target.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as for `Explainer`: density, detector, layers (several layers are averaged), refine,
        preprocessing, seed

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> RawAttention(vit, layers=[-2]).patch_map(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 4, 4])
    """

    name = "raw-attention"
    needs_gradient = False
    uses_keypoints = False
    class_specific = False
    default_layers = (-1,)

    def relevance(self, record: AttentionRecord, _p: Tensor) -> Tensor:
        """Compute the mean attention (B, P) in the rows of the readout."""
        readout = record.readout()
        rows = [
            propagate(site, readout, _mean_attention(site))
            for site in pool_sites(record) or layer_sites(record)
        ]
        return record.grid.drop_prefix(torch.stack(rows).mean(dim=0))


def _mean_attention(site: SiteRecord) -> FusedAttention:
    return lambda rows: site.attention(rows).mean(dim=1)
