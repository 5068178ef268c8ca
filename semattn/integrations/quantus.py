"""Explainers as the `explain_func` of Quantus. Quantus itself is not imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..explain import explainers
from ..utils.validation import as_tensor, check_labels

MAX_CLASSES = 2**31  # the model's number of classes is checked later, with the target


def heat_map_array(attribution: Tensor | tuple[Tensor, ...]) -> np.ndarray:
    """Sum an attribution (B, C, H, W) over channels, and return a float32 array (B, H, W)."""
    assert isinstance(attribution, Tensor)
    return attribution.detach().sum(dim=1).to("cpu", torch.float32).numpy()


_QUANTUS_KEYWORDS = ("device", "method")  # added to a call by Quantus


def quantus_explain_func(
    method: Any = "sift-patch-interrelation", *, batch_size: int = 16, **options: Any
) -> Callable[..., np.ndarray]:
    """Return an explainer as an ``explain_func`` of Quantus.

    Parameters
    ----------
    method : name in `semattn.explain.explainers`, or an explainer class
    batch_size : number of images explained at a time
    options : options of the explainer

    Returns
    -------
    A function ``(model, inputs, targets)`` with images (B, C, H, W) and classes (B,) as arrays,
    which returns maps (B, 1, H, W) float32. Pass ``explain_func_kwargs={}`` to
    ``quantus.evaluate``. The function runs on the device of the model and ignores ``device``.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = np.random.default_rng(0).random((2, 3, 64, 64))
    >>> quantus_explain_func()(model=vit, inputs=x, targets=np.array([1, 2])).shape
    (2, 1, 64, 64)
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 at least, got {batch_size}")
    explainer = explainers.resolve(method)(**options)

    def explain_func(
        model: nn.Module, inputs: Any, targets: Any = None, **extra: Any
    ) -> np.ndarray:
        if unknown := sorted(extra.keys() - set(_QUANTUS_KEYWORDS)):
            raise TypeError(
                f"explain_func: expected explain_func_kwargs={{}}, got {', '.join(unknown)} — "
                "give options to quantus_explain_func"
            )
        images = as_tensor(inputs)
        labels = (
            None if targets is None else check_labels(targets, len(images), MAX_CLASSES, "targets")
        )
        parts = []
        for start in range(0, len(images), batch_size):
            rows = slice(start, start + batch_size)
            target = None if labels is None else labels[rows]
            parts.append(heat_map_array(explainer.attribute(model, images[rows], target=target)))
        return np.concatenate(parts)[:, None]

    explain_func.__name__ = f"semattn_{explainer.name}"
    return explain_func
