"""Scores of modified copies of the images for the target of the images themselves.

Methods that run a model on scaled, noisy or occluded copies must explain the same output for all
copies: the class that is predicted for the image, or the feature direction of the image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..attention import AttentionRecord
from ..attention.model_pass import first_meaning
from ..attention.target import Target, fixed_target, score
from .base import AttributionRequest


def target_for_copies(request: AttributionRequest, record: AttentionRecord) -> Target:
    """Return the target of a request, fixed to the predictions of the recorded images."""
    if record.target is not None:
        return record.target
    if request.target is not None:
        return request.target
    return fixed_target(record.logits, first_meaning(request.model))


def score_copies(
    output: Any, image_index: Tensor, target: Target, model: nn.Module, n_images: int
) -> Tensor:
    """Compute the scores of R copies of images for the target of the images.

    Parameters
    ----------
    output : output of the model for the copies
    image_index : (R,), index of the image of each copy
    target : the result of `target_for_copies`
    n_images : B, the number of images

    Returns
    -------
    Tensor
        (R,)
    """
    if callable(target):
        return _score_by_batches(output, image_index, target, model, n_images)
    if isinstance(target, list):
        target = [target[index] for index in image_index.tolist()]
    elif isinstance(target, Tensor) and target.numel() > 1:
        target = target.to(image_index.device)[image_index]
    return score(output, target, model).values


def _score_by_batches(
    output: Any, image_index: Tensor, target: Target, model: nn.Module, n_images: int
) -> Tensor:
    """Call a target function on batches with one copy of each image, in the order of the images."""
    n_copies = len(image_index)
    values: list[Any] = [None] * n_copies
    copies_of: list[list[int]] = [[] for _ in range(n_images)]
    for copy_, index in enumerate(image_index.tolist()):
        copies_of[index].append(copy_)
    for turn in range(max(map(len, copies_of))):
        copy_of = {
            index: copies[turn] for index, copies in enumerate(copies_of) if turn < len(copies)
        }
        filler = next(iter(copy_of.values()))  # for images without another copy
        rows = torch.tensor([copy_of.get(index, filler) for index in range(n_images)], device="cpu")

        def pick(leaf: Any, rows: Tensor = rows) -> Any:
            is_batch = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == n_copies
            return leaf[rows.to(leaf.device)] if is_batch else leaf

        scores = score(pytree.tree_map(pick, output), target, model).values
        for index, copy_ in copy_of.items():
            values[copy_] = scores[index]
    return torch.stack(values)
