"""LeGrad: what each layer's attention does for the score (arXiv 2404.03214)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..attention import SiteRecord
from ..attention.layer_readout import head_after_each_block
from ..errors import SemattnError, UnsupportedModelError
from .asked import asked, score_rows
from .base import Explainer, Maps, Run, explainers
from .rollout import carry, layers


@explainers.register("legrad")
class LeGrad(Explainer):
    """Layers' own gradients: relu(ds_l / dA_l), averaged over heads, queries and layers.

    The score s_l of layer l is what the model's head says of that layer's features averaged over
    all tokens; only the attention A_l of the same layer is asked for it. Attention itself does not
    enter, its gradient does.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

    Notes
    -----
    The averaged features take the place of the last block's output, so the head is the model's own,
    whatever it is. For attention pools the paper takes the pool's attention at every layer; here
    they read the averaged features as any other head does. Layers of another size than the last
    one, in hierarchical models, cannot be read by the head; they are left out, and a note says so.

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> LeGrad(vit).patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "legrad"
    uses_readout = False
    uses_keypoints = False
    usual_layers = "all"

    def maps(self, run: Run) -> Maps:
        """One pass for the target, one for all layers' scores."""
        plain = run.record(layers="all", grad="last")
        called = [one.site for one in layers(plain)]
        shape = layers(plain)[-1].keys_at.own.shape
        plain = dataclasses.replace(plain, sites=())
        target = asked(run, plain)

        def scores(output: object, image: Tensor) -> Tensor:
            return score_rows(output, image, target, run.model, len(run.inputs))

        with head_after_each_block(run.model, called, shape, scores) as left_out:
            try:
                taken = run.record(layers=self.layers, target=lambda output: output)
            except RuntimeError as error:
                if isinstance(error, SemattnError):
                    raise
                raise UnsupportedModelError(
                    f"{type(run.model).__name__}: expected a head that reads the tokens of the "
                    f"last layer, for any number of images ({str(error).splitlines()[0][:120]}) — "
                    "choose another method"
                ) from error
        sites = [one for one in layers(taken) if one.site.name not in left_out]
        if not sites:
            raise ValueError(
                f"layers: expected some of the size of {called[-1].name}, which the model's "
                f"head reads, got {self.layers!r} — choose later ones"
            )

        def relevance(_p: Tensor) -> Tensor:
            rows = [_positive(one, taken.readout()) for one in sites]
            return taken.grid.drop_prefix(torch.stack(rows).mean(dim=0))

        asked_for = {
            name: getattr(plain, name)
            for name in ("logits", "score", "target", "explains", "notes", "left_out")
        }
        made = self.from_patches(run, dataclasses.replace(taken, **asked_for), relevance)
        return dataclasses.replace(made, notes=_notes(left_out))


def _positive(one: SiteRecord, like: Tensor) -> Tensor:
    """relu(dA) averaged over heads and queries, on the tokens (B, N)."""
    even = torch.full_like(like, 1 / like.shape[1])
    return carry(one, even, lambda rows: one.attention_gradient(rows).relu_().mean(dim=1))


def _notes(left_out: list[str]) -> tuple[str, ...]:
    if not left_out:
        return ()
    ends = f"{left_out[0]} to {left_out[-1]}, {len(left_out)} layers"
    return (f"Not in the map, since the model's head reads features of another size: {ends}.",)
