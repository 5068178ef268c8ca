"""Baseline explainers that ignore the model; every method should score above them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..attention import AttentionRecord
from ..density import Scene, concentration, densities
from .base import Explainer, explainers
from .request import AttributionRequest, RelevanceMap


@explainers.register("keypoint-density")
class KeypointDensity(Explainer):
    """Concentration p of the keypoint density, without the model.

    Parameters
    ----------
    model : the model that defines the patches and inputs; may be given to `attribute` instead
    options : as for `Explainer`: density, detector, layers, refine, preprocessing, seed

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> KeypointDensity(vit, density="sobel").patch_map(x).sum()
    tensor(1.0000)
    """

    name = "keypoint-density"
    needs_gradient = False
    class_specific = False
    starts_at_readout = False
    is_baseline = True
    default_layers = "all"  # so that the grid is the finest
    uniform_note = "the map is uniform"

    def relevance(self, record: AttentionRecord, p: Tensor) -> Tensor:
        """Return the concentration, (B, P)."""
        return _to_map_dtype(record, p)


class _DensityBaseline(Explainer):
    """Concentration of the fixed density `density_name`; the option `density` has no effect."""

    needs_gradient = False
    uses_keypoints = False
    class_specific = False
    starts_at_readout = False
    is_baseline = True
    default_layers = "all"  # so that the grid is the finest
    density_name: ClassVar[str]

    def maps(self, request: AttributionRequest) -> RelevanceMap:
        """Run one pass, for the grid and to check the target, and return the density."""
        record = request.record(layers=self.layers, grad="last")
        scene = Scene(request.images.pixels, (), record.grid, self.seed)
        weights = concentration(densities[self.density_name](scene))
        return self.from_patches(
            request, record, lambda p: _to_map_dtype(record, weights).to(p.device)
        )


@explainers.register("random")
class Random(_DensityBaseline):
    """A random number for each patch.

    Parameters
    ----------
    model : the model that defines the patches; may be given to `attribute` instead
    options : as for `Explainer`; the numbers depend on the seed and the image, not on the batch

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> Random(vit, seed=1).patch_map(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 4, 4])
    """

    name = "random"
    density_name = "random"


@explainers.register("center")
class Center(_DensityBaseline):
    """A Gaussian about the image centre, the centre bias of photographs.

    Parameters
    ----------
    model : the model that defines the patches; may be given to `attribute` instead
    options : as for `Explainer`

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> Center(vit).patch_map(torch.zeros(1, 3, 64, 64))[0].argmax().item()
    5
    """

    name = "center"
    density_name = "center"


def _to_map_dtype(record: AttentionRecord, weights: Tensor) -> Tensor:
    """Convert weights to the precision of the maps: that of the model, at least float32."""
    return weights.to(torch.promote_types(record.logits.dtype, torch.float32))
