"""What a cue does to the answer: hidden or exchanged where it is, and put where it is not.

Effects are changes of the log-odds of a class, nats. What is exchanged or put is held against the
same exchange with an image that has a cue, or none: the borders that pasting makes are in both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention.output_meaning import predict
from ..grid import PatchGrid
from ..outputs import OutputMeaning
from ..prompting import AttentionPrompter

GONE = 30.0  # nats: e^-30 of the attention that a patch had is left


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Log p / (1 - p) of one class an image: class logits (B, K), classes (B,), to (B,).

    Examples
    --------
    >>> log_odds(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).tolist()
    [0.0]
    """
    return OutputMeaning().log_odds(logits, classes)


def answer(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """The log-odds (B,) of one class an image."""
    with torch.no_grad():
        logits, meaning = predict(model, inputs)
        return meaning.log_odds(logits, classes)


def answer_without(model: nn.Module, inputs: Tensor, classes: Tensor, gone: Tensor) -> Tensor:
    """The log-odds (B,) where nobody attends to the patches `gone` (B, P), in any layer."""
    prompter = AttentionPrompter(model, strength=1.0, layers="all", clip=GONE)
    with prompter.steer(gone.to(torch.float32), away=True):
        return answer(model, inputs, classes)


def pasted(
    into: Tensor, source: Tensor, patches: Tensor, grid: PatchGrid, light: bool = False
) -> Tensor:
    """Images (B, C, H, W) with the pixels of `patches` (B, P) from others, at the same place.

    With `light` the pixels that stay are brought to the light of those that come: what channels
    differ by on average there, their common brightness left out, so that one picture comes of it.
    """
    here = grid.upsample(patches.to(into.dtype), mode="nearest")[:, None] > 0
    stays = into + _light(into, source, here) if light else into
    return torch.where(here, source, stays)


def _light(into: Tensor, source: Tensor, here: Tensor) -> Tensor:
    """(B, C, 1, 1), the colour that would make the region of one picture that of the other."""
    count = here.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    differ = ((source - into).float() * here).sum(dim=(2, 3), keepdim=True) / count
    return (differ - differ.mean(dim=1, keepdim=True)).to(into.dtype)
