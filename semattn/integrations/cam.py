"""Explainers behind the interface of pytorch-grad-cam's classes, which is not imported."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from ..attention.target import TargetLike
from ..explain import Explainer, explainers
from .quantus import heat_map_array


class CAM:
    """Explainer with the interface of the classes of pytorch-grad-cam.

    Needs no target layers and no reshape transform.

    Parameters
    ----------
    model : the model to explain
    method : name in `semattn.explain.explainers`, or an explainer class
    options : options of the explainer

    Examples
    --------
    >>> import timm, torch
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    >>> with CAM(vit) as cam:
    ...     cam(input_tensor=x, targets=None).shape
    (2, 64, 64)
    """

    def __init__(
        self, model: nn.Module, method: Any = "sift-patch-interrelation", **options: Any
    ) -> None:
        self.model = model
        self.explainer: Explainer = explainers.resolve(method)(**options)

    def __call__(self, input_tensor: Any, targets: TargetLike = None) -> np.ndarray:
        """Return maps (B, H, W) float32 in [0, 1], as ``show_cam_on_image`` expects them.

        Parameters
        ----------
        input_tensor : (B, C, H, W), or any image input
        targets : one function of the output for each image, such as
            ``[ClassifierOutputTarget(3)]``; or any target of an explainer; None is the predicted
            class
        """
        heat_map = heat_map_array(
            self.explainer.attribute(self.model, input_tensor, target=targets)
        )
        least, greatest = heat_map.min((1, 2), keepdims=True), heat_map.max((1, 2), keepdims=True)
        return (heat_map - least) / np.maximum(greatest - least, np.finfo(np.float32).tiny)

    def __enter__(self) -> CAM:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no hooks stay on the model between calls."""
