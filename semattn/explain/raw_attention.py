"""Raw attention: what the last layer looks at."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import Fused, carry, layers, readers


@explainers.register("raw-attention")
class RawAttention(Explainer):
    """The last layer's attention, averaged over heads, in the rows that the answer is read from.

    Rows are weighed by how much of the output is read from each (`AttentionRecord.readout`): the
    class token's row alone, that of several prefix tokens, or those of the patches; the learned
    query's where an attention pool comes last. It does not depend on the target.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as `Explainer`: density, detector, layers (several are averaged), refine,
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
    usual_layers = (-1,)

    def relevance(self, taken: AttentionRecord, _p: Tensor) -> Tensor:
        """Mean attention (B, P) of the readout."""
        asking = taken.readout()
        rows = [carry(one, asking, _mean(one)) for one in readers(taken) or layers(taken)]
        return taken.grid.drop_prefix(torch.stack(rows).mean(dim=0))


def _mean(one: SiteRecord) -> Fused:
    return lambda rows: one.attention(rows).mean(dim=1)
