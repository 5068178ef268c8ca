"""Grad-CAM (Selvaraju et al., arXiv 1610.02391) for tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..attention.layer_features import Activation, activation
from ..errors import UnsupportedModelError
from .base import Explainer, explainers
from .request import AttributionRequest, RelevanceMap, target_for_copies
from .rollout import require_layer_sites


@explainers.register("grad-cam")
class GradCAM(Explainer):
    """Features weighted by their mean gradient: relu(sum_c w_c a_c), w_c averaged over patches.

    Parameters
    ----------
    model : the model to explain; may be given to `attribute` instead
    layer : the module whose output is used as features, or its dotted name; None is the input of
        the attention of the layer in `layers`
    options : as for `Explainer`: density, detector, layers (one layer, default the last), refine,
        preprocessing, seed

    Notes
    -----
    In a model that reads its class token, the patches have no influence on the output after the
    last attention, and their gradient is zero. Therefore the default features are the input of the
    last attention. Prefix tokens are left out of the mean.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> GradCAM(vit, layer="blocks.0.norm1").patch_map(torch.zeros(1, 3, 64, 64), target=3).shape
    torch.Size([1, 4, 4])
    """

    name = "grad-cam"
    starts_at_readout = False
    uses_keypoints = False
    default_layers = (-1,)

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
        """Return the settings of this explainer, ready for JSON."""
        is_name = self.layer is None or isinstance(self.layer, str)
        return super().parameters() | {
            "layer": self.layer if is_name else f"a given {type(self.layer).__name__}"
        }

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Run one pass for the grid and the target, and one for the features."""
        record = request.record(layers=self.layers, grad="last")
        require_layer_sites(record, request.model, self.name)
        sites = [site.site for site in record.sites if site.site.kind == "self"]
        if len(sites) != 1:
            raise ValueError(
                f"layers: expected one layer for grad-cam, got {len(sites)} — give its number, "
                "or a module as layer="
            )
        if self.layer is None and (not sites[0].path or sites[0].name != sites[0].path):
            raise UnsupportedModelError(
                f"{sites[0]}: expected a module that makes one attention call, for the features "
                "that enter it, got several calls — give a module as layer="
            )
        features = activation(
            request.model,
            request.inputs,
            sites[0].name if self.layer is None else self.layer,
            record.grid if record.in_order else None,
            attribute_to_layer_input=self.layer is None,
            target=target_for_copies(request, record.prediction),
            additional_forward_args=request.extra_args,
        )
        return self.from_patches(request, record, lambda _: grad_cam(features), features.grid)


def grad_cam(activation: Activation) -> Tensor:
    """Compute relu(sum_c w_c a_c), (B, P)."""
    channel_weights = activation.gradient.mean(dim=1, keepdim=True)
    return torch.relu((channel_weights * activation.features).sum(dim=-1))
