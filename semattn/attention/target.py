"""From what a model returns to one number an image that is explained.

A target is what Captum takes: a class number, one a sample (list or 1-D tensor), a tuple of
indices into an output of more axes, or a list of such tuples. None is the class that the model
predicts; for a model without a classifier it is the direction of its own feature vector.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

import torch
from captum._utils.common import _select_targets
from torch import Tensor, nn

from ..errors import TargetError, UnsupportedModelError

Target = int | tuple[int, ...] | list[int] | list[tuple[int, ...]] | Tensor | None


def output_tensor(output: Any) -> Tensor:
    """The tensor (B, …) of a model's output: itself, its logits, or the first of a sequence."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, list | tuple) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.ndim:
        raise UnsupportedModelError(
            f"model output: expected a tensor (B, …) or a result with logits, "
            f"got {type(output).__name__} — wrap the model so that it returns its logits"
        )
    return output


def score(output: Tensor, target: Target, model: nn.Module) -> tuple[Tensor, Tensor | None]:
    """What is explained of each image, (B,), and the class numbers (B,) where there are such.

    Raises
    ------
    TargetError
        For a target that the output does not have.
    """
    if target is None:
        if getattr(model, "num_classes", None) == 0:
            return _own_direction(output), None
        if output.ndim == 1:
            return output, None
        if output.ndim != 2:
            raise TargetError(
                f"target: expected one for an output of shape {tuple(output.shape)}, got None — "
                "only an output (B, classes) has a predicted class"
            )
        target = output.detach().argmax(dim=1)
    _check(output, target)
    chosen = _select_targets(output, target)
    if chosen.shape != output.shape[:1]:
        raise TargetError(
            f"target: expected one number an image, got {reprlib.repr(target)} which selects "
            f"{tuple(chosen.shape)} of {tuple(output.shape)} — give an index for every axis"
        )
    return chosen, _classes(output, target)


def _own_direction(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    direction = torch.nn.functional.normalize(flat.detach(), dim=1)
    return (flat * direction).sum(dim=1)


def _check(output: Tensor, target: Target) -> None:
    batch, shape = output.shape[0], tuple(output.shape)
    each: list[Any]
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.ndim > 1:
            raise TargetError(
                f"target: expected whole numbers (B,), got {target.dtype} {tuple(target.shape)}"
            )
        each = target.reshape(-1).tolist()
        alone = len(each) == 1
    elif isinstance(target, list):
        each, alone = target, False
    else:
        each, alone = [target], True
    if not alone and len(each) != batch:
        raise TargetError(
            f"target: expected {batch}, one an image, got {len(each)} — "
            "or give a single class for all images"
        )
    for one in each:
        indices = one if isinstance(one, tuple) else (one,)
        if not all(isinstance(index, int) and not isinstance(index, bool) for index in indices):
            raise TargetError(
                f"target: expected a class number, a tuple of indices, a list or a 1-D tensor, "
                f"got {reprlib.repr(one)} of type {type(one).__name__}"
            )
        if len(indices) != output.ndim - 1:
            raise TargetError(
                f"target: expected {output.ndim - 1} indices for an output of shape {shape}, "
                f"got {reprlib.repr(one)}"
            )
        for index, size in zip(indices, shape[1:], strict=True):
            if not 0 <= index < size:
                raise TargetError(
                    f"target: expected 0 to {size - 1} for an output of shape {shape}, got {index}"
                )


def _classes(output: Tensor, target: Target) -> Tensor | None:
    if output.ndim != 2:
        return None
    flat = [one[0] if isinstance(one, tuple) else one for one in _listed(target)]
    return torch.tensor(flat, dtype=torch.long, device=output.device).expand(len(output)).clone()


def _listed(target: Target) -> list[Any]:
    if isinstance(target, Tensor):
        return target.reshape(-1).tolist()
    return target if isinstance(target, list) else [target]
