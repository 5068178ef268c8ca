"""Effect of a cue on the log-odds: the cue is hidden or exchanged, or pasted into other images.

Effects are changes of the log-odds of a class, in nats. An exchange or a paste is compared with
the same exchange with a control image, because both contain the borders that pasting creates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention.output_meaning import predict
from ..grid import PatchGrid
from ..prompting import AttentionPrompter
from ..targets import OutputMeaning

GONE = 30.0  # nats: attention to a hidden patch is reduced by e^-30


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Return log p / (1 - p) of one class per image: logits (B, K) and classes (B,) to (B,).

    Examples
    --------
    >>> log_odds(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).tolist()
    [0.0]
    """
    return OutputMeaning().log_odds(logits, classes)


def answer(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """Return the log-odds (B,) of one class per image."""
    with torch.no_grad():
        logits, meaning = predict(model, inputs)
        return meaning.log_odds(logits, classes)


def answer_without(model: nn.Module, inputs: Tensor, classes: Tensor, hidden: Tensor) -> Tensor:
    """Return the log-odds (B,) with the patches `hidden` (B, P) suppressed in all layers."""
    prompter = AttentionPrompter(model, strength=1.0, layers="all", clip=GONE)
    with prompter.steer(hidden.to(torch.float32), suppress=True):
        return answer(model, inputs, classes)


def pasted(
    into: Tensor, source: Tensor, patches: Tensor, grid: PatchGrid, light: bool = False
) -> Tensor:
    """Return images (B, C, H, W) with the pixels of `patches` (B, P) copied from `source`.

    With `light`, the colour balance of the other pixels is matched to that of `source`: their
    channels are shifted by the mean difference in the region, without its common brightness.
    """
    region = grid.upsample(patches.to(into.dtype), mode="nearest")[:, None] > 0
    base = into + _light(into, source, region) if light else into
    return torch.where(region, source, base)


def _light(into: Tensor, source: Tensor, region: Tensor) -> Tensor:
    """Return the colour shift (B, C, 1, 1) from `into` to `source` in a region."""
    count = region.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    difference = ((source - into).float() * region).sum(dim=(2, 3), keepdim=True) / count
    return (difference - difference.mean(dim=1, keepdim=True)).to(into.dtype)
