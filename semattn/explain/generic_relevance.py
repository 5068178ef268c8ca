"""Generic attention-model explainability (Chefer et al., arXiv 2103.15679)."""

from __future__ import annotations

from torch import Tensor

from ..attention import AttentionRecord, SiteRecord
from .base import Explainer, explainers
from .rollout import Fused, carry, layers, readers, start


@explainers.register("generic-relevance")
class GenericRelevance(Explainer):
    """Relevance that each layer adds to what the layers before it have mixed.

    R starts as I and becomes R + mean_h(relu(A * dA)) R at every layer, with A the attention after
    softmax and dA the gradient of the target with respect to it; the map is the readout's row of R.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    Only the row is computed: v becomes v + v mean_h(relu(A * dA)) from the last layer to the first.
    The paper reads a class token; where the answer is read from the patches alike, the part of I,
    the same for all of them, is taken off. An attention pool gives the row to start with.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GenericRelevance(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "generic-relevance"
    uses_keypoints = False
    usual_layers = "all"

    def relevance(self, taken: AttentionRecord, _p: Tensor) -> Tensor:
        """The readout's row of R (B, P)."""
        tokens = start(taken, _positive)
        own = 0 if readers(taken) else tokens
        for one in reversed(layers(taken)):
            tokens = tokens + carry(one, tokens, _positive(one))
        return taken.grid.drop_prefix(tokens - own)


def _positive(one: SiteRecord) -> Fused:
    """mean_h(relu(A * dA))."""
    return lambda rows: one.attention(rows).mul_(one.attention_gradient(rows)).relu_().mean(dim=1)
