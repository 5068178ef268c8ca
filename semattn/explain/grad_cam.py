"""Grad-CAM (Selvaraju et al., arXiv 1610.02391) for tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.layer_features import Activation, activation
from ..errors import UnsupportedModelError
from .asked import asked
from .base import Explainer, Maps, Run, explainers


@explainers.register("grad-cam")
class GradCAM(Explainer):
    """Features weighted by their mean gradient: relu(sum_c w_c a_c), w_c the mean over patches.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    layer : the module whose output are the features, or its dotted name; None is what enters the
        attention of the layer in `layers`
    options : as `Explainer`: density, detector, layers (one; the last), refine, preprocessing, seed

    Notes
    -----
    Behind the last attention a model that reads its class token owes nothing to its patches, and
    any map of them is zero; so the last features that count are those which enter it. Prefix
    tokens are left out of the mean.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GradCAM(vit, layer="blocks.0.norm1").patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "grad-cam"
    uses_readout = False
    uses_keypoints = False
    usual_layers = (-1,)

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        layer: nn.Module | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.layer = layer

    def parameters(self) -> dict[str, Any]:
        """What this explainer was set to, ready for JSON."""
        named = self.layer is None or isinstance(self.layer, str)
        return super().parameters() | {
            "layer": self.layer if named else f"a given {type(self.layer).__name__}"
        }

    def maps(self, run: Run) -> Maps:
        """One pass for the grid and the target, one for the features."""
        taken = run.record(layers=self.layers, grad="last")
        sites = [one.site for one in taken.sites if one.site.kind == "self"]
        if len(sites) != 1:
            raise ValueError(
                f"layers: expected one for grad-cam, got {len(sites)} — give its number, "
                "or a module as layer="
            )
        if self.layer is None and (not sites[0].path or sites[0].name != sites[0].path):
            raise UnsupportedModelError(
                f"{sites[0]}: expected a module that makes one attention call, for the features "
                "that enter it, got several calls — give a module as layer="
            )
        seen = activation(
            run.model,
            run.inputs,
            sites[0].name if self.layer is None else self.layer,
            taken.grid if taken.in_order else None,
            entering=self.layer is None,
            target=asked(run, taken),
            additional_forward_args=run.extra_args,
        )
        taken = dataclasses.replace(taken, grid=seen.grid)
        return self.from_patches(run, taken, lambda _: weighted(seen))


def weighted(seen: Activation) -> Tensor:
    """relu(sum_c w_c a_c), (B, P)."""
    weights = seen.gradient.mean(dim=1, keepdim=True)
    return torch.relu((weights * seen.features).sum(dim=-1))
