"""What a cue does to the answer: hidden where it is, exchanged, and put where it is not.

Effects are changes of the log-odds of a class, nats. What is exchanged or put is held against the
same exchange with an image that has no cue, or has one: borders that pasting makes are in both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..attention.target import output_tensor
from ..grid import PatchGrid
from ..prompting import AttentionPrompter

GONE = 30.0  # nats: e^-30 of the attention that a patch had is left
CONTRAST = 2.0  # times: the most that the light of a picture changes its contrast


def log_odds(logits: Tensor, classes: Tensor) -> Tensor:
    """Log p / (1 - p) of one class an image: logits (B, K), classes (B,), to (B,).

    Examples
    --------
    >>> log_odds(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).tolist()
    [0.0]
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    at = classes[:, None]
    others = logits.scatter(1, at, -torch.inf)
    return logits.gather(1, at)[:, 0] - others.logsumexp(dim=1)


def answer(model: nn.Module, inputs: Tensor, classes: Tensor) -> Tensor:
    """The log-odds (B,) of one class an image."""
    with torch.no_grad():
        return log_odds(output_tensor(model(inputs)), classes)


def answer_without(model: nn.Module, inputs: Tensor, classes: Tensor, gone: Tensor) -> Tensor:
    """The log-odds (B,) where nobody attends to the patches `gone` (B, P), in any layer."""
    prompter = AttentionPrompter(model, strength=1.0, layers="all", clip=GONE)
    with prompter.steer(gone.to(torch.float32), away=True):
        return answer(model, inputs, classes)


def pasted(
    into: Tensor, source: Tensor, patches: Tensor, grid: PatchGrid, light: bool = False
) -> Tensor:
    """Images (B, C, H, W) with the pixels of `patches` (B, P) from others, at the same place.

    With `light` the pixels that stay are brought to the light of those that come: each channel to
    their mean and standard deviation, as colours are transferred (Reinhard et al. 2001), so that
    one picture comes of it.
    """
    here = grid.upsample(patches.to(into.dtype), mode="nearest")[:, None] > 0
    stays = _lit(into, source, here) if light else into
    return torch.where(here, source, stays)


def _lit(into: Tensor, source: Tensor, here: Tensor) -> Tensor:
    count = here.sum(dim=(2, 3), keepdim=True).clamp(min=1)

    def moments(images: Tensor) -> tuple[Tensor, Tensor]:
        mean = (images * here).float().sum(dim=(2, 3), keepdim=True) / count
        square = ((images - mean).square() * here).float().sum(dim=(2, 3), keepdim=True) / count
        return mean, square.sqrt()

    mean, spread = moments(into)
    wanted_mean, wanted_spread = moments(source)
    ratio = (wanted_spread / spread.clamp(min=1e-3)).clamp(1 / CONTRAST, CONTRAST)
    made = (into - mean) * ratio + wanted_mean
    least, greatest = source.amin(dim=(1, 2, 3)), source.amax(dim=(1, 2, 3))
    limits = [one[:, None, None, None] for one in (least, greatest)]
    return torch.minimum(torch.maximum(made, limits[0]), limits[1]).to(into.dtype)
