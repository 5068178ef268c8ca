"""What was explained of each image, asked again of other versions of that image.

Methods that run a model on scaled, noisy or occluded copies must ask all copies for the same
number: the class that was predicted for the image itself, its own feature direction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..attention import AttentionRecord
from ..attention.output_watch import decided_meaning
from ..attention.target import Target, fixed_target, score
from .base import Run


def asked(run: Run, taken: AttentionRecord) -> Target:
    """The target of `run`, for other inputs of as many images: nothing is predicted anew."""
    if taken.target is not None:
        return taken.target
    if run.target is not None:
        return run.target
    return fixed_target(taken.logits, decided_meaning(run.model))


def score_rows(output: Any, image: Tensor, target: Target, model: nn.Module, batch: int) -> Tensor:
    """What `target`, that of a batch of images, asks of R copies of them.

    Parameters
    ----------
    output : what the model returned for the copies
    image : (R,), which image each one is a copy of
    target : as `asked` gives it
    batch : B, the number of images

    Returns
    -------
    Tensor
        (R,)
    """
    if callable(target):
        return _by_batches(output, image, target, model, batch)
    if isinstance(target, list):
        target = [target[number] for number in image.tolist()]
    elif isinstance(target, Tensor) and target.numel() > 1:
        target = target.to(image.device)[image]
    return score(output, target, model).values


def _by_batches(output: Any, image: Tensor, target: Target, model: nn.Module, batch: int) -> Tensor:
    """A function may know the images by their order, so it is given whole batches in order."""
    count = len(image)
    values: list[Any] = [None] * count
    waiting: list[list[int]] = [[] for _ in range(batch)]
    for row, number in enumerate(image.tolist()):
        waiting[number].append(row)
    for turn in range(max(map(len, waiting))):
        present = {number: rows[turn] for number, rows in enumerate(waiting) if turn < len(rows)}
        anyone = next(iter(present.values()))  # stands in for images that have no copy left
        rows = torch.tensor([present.get(number, anyone) for number in range(batch)], device="cpu")

        def pick(leaf: Any, rows: Tensor = rows) -> Any:
            whole = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count
            return leaf[rows.to(leaf.device)] if whole else leaf

        answers = score(pytree.tree_map(pick, output), target, model).values
        for number, row in present.items():
            values[row] = answers[number]
    return torch.stack(values)
