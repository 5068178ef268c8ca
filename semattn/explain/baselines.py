"""Controls: maps that owe nothing to the model. What they reach, any map can reach."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..attention import AttentionRecord
from ..density import Scene, concentration, densities
from .base import Explainer, Maps, Run, explainers


@explainers.register("keypoint-density")
class KeypointDensity(Explainer):
    """The concentration p of the density alone: where the keypoints lie, whatever the model says.

    Parameters
    ----------
    model : the model whose patches and inputs are taken; may be given to `attribute` instead
    options : as `Explainer`: density, detector, layers, refine, preprocessing, seed

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
    uses_readout = False
    control = True
    usual_layers = "all"  # so that the grid is the finest
    without_keypoints = "it is even"

    def relevance(self, taken: AttentionRecord, p: Tensor) -> Tensor:
        """The concentration itself, (B, P)."""
        return _as_output(taken, p)


class _OfDensity(Explainer):
    """The concentration of one density, whichever the explainer was given to draw."""

    needs_gradient = False
    uses_keypoints = False
    class_specific = False
    uses_readout = False
    control = True
    usual_layers = "all"  # so that the grid is the finest
    shows: ClassVar[str]

    def maps(self, run: Run) -> Maps:
        """One pass, for the grid and to refuse a target that is not there."""
        taken = run.record(layers=self.layers, grad="last")
        scene = Scene(run.images.pixels, (), taken.grid, self.seed)
        weights = concentration(densities[self.shows](scene))
        return self.from_patches(run, taken, lambda p: _as_output(taken, weights).to(p.device))


@explainers.register("random")
class Random(_OfDensity):
    """A number by chance for each patch: what a map of no worth looks like.

    Parameters
    ----------
    model : the model whose patches are taken; may be given to `attribute` instead
    options : as `Explainer`; the seed and the image decide, never the batch

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> Random(vit, seed=1).patch_map(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 4, 4])
    """

    name = "random"
    shows = "random"


@explainers.register("center")
class Center(_OfDensity):
    """A Gaussian about the middle: what knowing that photographs have their subject there gives.

    Parameters
    ----------
    model : the model whose patches are taken; may be given to `attribute` instead
    options : as `Explainer`

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> Center(vit).patch_map(torch.zeros(1, 3, 64, 64))[0].argmax().item()
    5
    """

    name = "center"
    shows = "center"


def _as_output(taken: AttentionRecord, weights: Tensor) -> Tensor:
    """The weights in the precision of every other map: the model's, float32 at least."""
    return weights.to(torch.promote_types(taken.logits.dtype, torch.float32))
