"""LeGrad: gradients of a layer-wise score with respect to attention (arXiv 2404.03214)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..attention import SiteRecord
from ..attention.layer_readout import logits_after_each_block
from ..attention.propagation import missing_rules_note
from ..errors import SemattnError, UnsupportedModelError
from .attention_gradient import AttentionGradientExplainer
from .base import explainers
from .request import AttributionRequest, RelevanceMap, score_copies, target_for_copies
from .rollout import layer_sites, propagate, require_layer_sites


@explainers.register("legrad")
class LeGrad(AttentionGradientExplainer):
    """Gradients of layer-wise scores: relu(ds_l / dA_l), averaged over heads, queries and layers.

    The score s_l of layer l is the output of the model's head for that layer's features, averaged
    over all tokens. Its gradient is taken with respect to the attention A_l of the same layer. The
    map uses the gradient only, not the attention.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : gradient, "plain" or "lrp", as for `AttentionGradientExplainer`; and as for
        `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    The averaged features replace the output of the last block, so that the model's own head is
    used. For attention pools the paper uses the pool's attention at every layer; here a pool reads
    the averaged features like any other head. In hierarchical models, the head cannot read layers
    whose size differs from the last layer; they are left out, and the explanation has a note.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> LeGrad(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "legrad"
    starts_at_readout = False
    uses_keypoints = False
    default_layers = "all"

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Run one pass for the target, and one for the scores of all layers."""
        plain_record = request.record(layers="all", grad="last")
        layers = require_layer_sites(plain_record, request.model, self.name)
        sites = [site.site for site in layers]
        shape = layers[-1].keys_at.call_grid.shape
        plain_record = plain_record.without_sites()
        target = target_for_copies(request, plain_record.prediction)

        def scores(output: object, image: Tensor) -> Tensor:
            return score_copies(output, image, target, request.model, len(request.inputs))

        with logits_after_each_block(request.model, sites, shape, scores) as left_out:
            try:
                record = request.record(layers=self.layers, target=lambda output: output)
            except RuntimeError as error:
                if isinstance(error, SemattnError):
                    raise
                raise UnsupportedModelError(
                    f"{type(request.model).__name__}: expected a head that reads the tokens of the "
                    f"last layer, for any number of images ({str(error).splitlines()[0][:120]}) — "
                    "choose another method"
                ) from error
        recorded = layer_sites(record)
        used_sites = [site for site in recorded if site.site.name not in left_out]
        if not used_sites:
            raise ValueError(
                f"layers: expected a layer of the size of {sites[-1].name}, which the model's "
                f"head reads, got {self.layers!r} — choose later layers"
            )

        def relevance(_p: Tensor) -> Tensor:
            gradients = [_positive_gradient(site, record.readout()) for site in used_sites]
            return record.grid.drop_prefix(torch.stack(gradients).mean(dim=0))

        maps = self.from_patches(request, plain_record, relevance, record.grid)
        # With rules, the graph begins at the image, so the readout sees the other layers, too.
        selected = [site.site.name for site in recorded if site.site.name in left_out]
        notes = (*_left_out_notes(selected), *missing_rules_note(record.without_rule))
        return dataclasses.replace(maps, notes=notes)


def _positive_gradient(site: SiteRecord, tokens: Tensor) -> Tensor:
    """Return relu(dA) averaged over heads and queries, on the tokens (B, N)."""
    uniform = torch.full_like(tokens, 1 / tokens.shape[1])
    return propagate(site, uniform, lambda rows: site.attention_gradient(rows).relu_().mean(dim=1))


def _left_out_notes(left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    skipped = f"{left_out[0]} to {left_out[-1]}, {len(left_out)} layers"
    return (f"Not in the map, since the model's head reads features of another size: {skipped}.",)
