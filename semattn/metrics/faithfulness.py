"""Faithfulness: what the model says when the patches that a map names go, or come.

Everything here is made of two curves. Deletion takes the patches of greatest score from the image
first, insertion brings them first to the baseline. Taking the least first (LeRF) is insertion read
backwards, so that the area between LeRF and MoRF is insertion minus deletion, on logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..grid import PatchGrid
from .perturbation import Fill, fill_of, kept_pixels, ranks

Predict = Callable[[Tensor], Tensor]  # from images (N, C, H, W) to logits (N, K)
Probabilities = Callable[[Tensor], Tensor]  # from logits (N, K) to probabilities (N, K)


def softmax(logits: Tensor) -> Tensor:
    """The probabilities (N, K) of class logits (N, K)."""
    return logits.softmax(dim=1)


ERASER = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Parts of the patches at which sufficiency and comprehensiveness are averaged (arXiv 1911.03429).

The ends, 0 and 1, are there for reference and not averaged.
"""


@dataclass(frozen=True)
class Curves:
    """What the model says of each image while patches go, and while they come.

    Parameters
    ----------
    parts : (S + 1,), of the patches that are gone, or have come
    deletion, insertion : probability of the target, (B, S + 1)
    deletion_logit, insertion_logit : the same, logits
    """

    parts: Tensor
    deletion: Tensor
    insertion: Tensor
    deletion_logit: Tensor
    insertion_logit: Tensor


def curves(
    predict: Predict,
    images: Tensor,
    scores: Tensor,
    target: Tensor,
    *,
    grid: PatchGrid,
    baseline: Any = "blur",
    black: Sequence[float] | None = None,
    parts: Sequence[float] | int = 16,
    batch_size: int = 32,
    seed: int = 0,
    probabilities: Probabilities = softmax,
) -> Curves:
    """Deletion and insertion of patches by their scores.

    Parameters
    ----------
    predict : images (N, C, H, W) to logits (N, K); called under ``torch.inference_mode``
    images : (B, C, H, W), as the model takes them
    scores : (B, P) or (B, h, w), any scale; equals are taken in an order that the seed gives
    target : (B,), the class of each image
    grid : which pixels are which patch
    baseline, black : what stands for a patch that is not there: `perturbation.fill_of`
    parts : how many steps of the same size, or the parts of the patches themselves, from 0 to 1
    batch_size : perturbed images in the model at once
    probabilities : from what `predict` gives, in float64, to probabilities, where it gives other
        than class logits; see `semattn.targets.OutputMeaning.score_probabilities`

    Returns
    -------
    Curves
        On the CPU, in double precision. The whole image and the whole baseline are looked at once.

    Raises
    ------
    ShapeError, ValueError
        For scores, targets or parts that do not fit.

    Source: Petsiuk et al. 2018 (arXiv 1806.07421); Samek et al. 2017 (MoRF, LeRF).
    """
    scores = _checked(images, scores, target, grid)
    steps = _parts(parts)
    count = (steps * grid.patches).round().long()
    place = ranks(scores, seed)
    fill = fill_of(baseline, images, black)
    gone = place[:, None] < count[:, None].to(place.device)  # (B, S + 1, P)
    keep = torch.cat([~gone, gone[:, 1:-1]], dim=1).flatten(0, 1)
    index = torch.arange(len(images), device=images.device).repeat_interleave(2 * len(steps) - 2)
    said = _said(predict, fill, index, keep, target, grid, batch_size, probabilities)
    logit, chance = (one.unflatten(0, (len(images), -1)) for one in said)
    return Curves(steps.double(), *_both(chance, len(steps)), *_both(logit, len(steps)))


def _both(values: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Values (B, 2S) as both curves (B, S + 1)."""
    deletion, middle = values[:, :points], values[:, points:]
    return deletion, torch.cat([deletion[:, -1:], middle, deletion[:, :1]], dim=1)


@torch.inference_mode()
def _said(
    predict: Predict,
    fill: Fill,
    index: Tensor,
    keep: Tensor,
    target: Tensor,
    grid: PatchGrid,
    batch_size: int,
    probabilities: Probabilities,
) -> tuple[Tensor, Tensor]:
    """Logit and probability of the target for each perturbed image (N,), on the CPU."""
    logits, chances = [], []
    wanted = target.to(index.device)
    for start in range(0, len(index), batch_size):
        part = slice(start, start + batch_size)
        made = predict(fill(index[part], kept_pixels(keep[part], grid)))
        if made.ndim != 2 or len(made) != len(index[part]):
            raise ShapeError(
                f"predict: expected logits ({len(index[part])}, K), got {tuple(made.shape)} — "
                "give a function from images to the logits of all classes"
            )
        column = wanted[index[part]][:, None].cpu()
        exact = made.cpu().double()
        logits.append(exact.gather(1, column)[:, 0])
        chances.append(probabilities(exact).gather(1, column)[:, 0])
    return torch.cat(logits), torch.cat(chances)


def area(parts: Tensor, values: Tensor) -> Tensor:
    """Area under values (B, S + 1) over the parts (S + 1,), by trapezoids: (B,)."""
    return torch.trapezoid(values, parts.to(values), dim=1)


def deletion(made: Curves) -> Tensor:
    """Area under the deletion curve, (B,); the less, the better."""
    return area(made.parts, made.deletion)


def insertion(made: Curves) -> Tensor:
    """Area under the insertion curve, (B,)."""
    return area(made.parts, made.insertion)


def insertion_deletion(made: Curves) -> Tensor:
    """Insertion minus deletion, (B,) in [-1, 1]; 0 is expected of a map that knows nothing."""
    return insertion(made) - deletion(made)


def lerf_morf(made: Curves) -> Tensor:
    """Area between taking the least relevant first and the most relevant first, logits: (B,)."""
    return area(made.parts, made.insertion_logit) - area(made.parts, made.deletion_logit)


def aopc(made: Curves) -> Tensor:
    """Mean loss of probability over the deletion curve, its start included (Samek 2017): (B,)."""
    return (made.deletion[:, :1] - made.deletion).mean(dim=1)


def comprehensiveness(made: Curves) -> Tensor:
    """Mean loss of probability without the patches of greatest score, (B,); more is better.

    Of curves over `ERASER`, this is the measure of DeYoung et al. 2020.
    """
    return (made.deletion[:, :1] - made.deletion[:, 1:-1]).mean(dim=1)


def sufficiency(made: Curves) -> Tensor:
    """Mean loss of probability with those patches alone, (B,); less is better."""
    return (made.deletion[:, :1] - made.insertion[:, 1:-1]).mean(dim=1)


def faithfulness_correlation(
    predict: Predict,
    images: Tensor,
    scores: Tensor,
    target: Tensor,
    *,
    grid: PatchGrid,
    baseline: Any = "blur",
    black: Sequence[float] | None = None,
    part: float = 0.2,
    draws: int = 64,
    batch_size: int = 32,
    seed: int = 0,
    probabilities: Probabilities = softmax,
) -> Tensor:
    """Correlation of a random set's score with the probability that goes with it: (B,).

    NaN where the scores or the losses are all the same. Source: Bhatt et al. 2020
    (arXiv 2005.00631).

    Parameters
    ----------
    part : of the patches, in each set
    draws : how many sets, the same for all images
    others : as for `curves`
    """
    scores = _checked(images, scores, target, grid)
    size = round(part * grid.patches)
    if not 1 <= size < grid.patches or draws < 2:
        raise ValueError(
            f"part, draws: expected sets of 1 to {grid.patches - 1} patches and 2 draws at least, "
            f"got {size} and {draws} — 0.2 and 64 are usual"
        )
    chance = torch.Generator().manual_seed(seed)
    sets = torch.stack(
        [torch.randperm(grid.patches, generator=chance, device="cpu") for _ in range(draws)]
    )
    gone = torch.zeros(draws + 1, grid.patches, dtype=torch.bool, device="cpu")
    gone[1:].scatter_(1, sets[:, :size], True)
    keep = (~gone).to(images.device).repeat(len(images), 1)
    index = torch.arange(len(images), device=images.device).repeat_interleave(draws + 1)
    fill = fill_of(baseline, images, black)
    _, said = _said(predict, fill, index, keep, target, grid, batch_size, probabilities)
    said = said.unflatten(0, (len(images), -1))
    lost = said[:, :1] - said[:, 1:]
    taken = scores.cpu().double() @ gone[1:].double().T
    return _correlation(taken, lost)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's, of each row (B,)."""
    one = one - one.mean(dim=1, keepdim=True)
    other = other - other.mean(dim=1, keepdim=True)
    scale = one.norm(dim=1) * other.norm(dim=1)
    return torch.where(scale > 0, (one * other).sum(dim=1) / scale, torch.nan)


def _parts(given: Sequence[float] | int) -> Tensor:
    if isinstance(given, int):
        if given < 1:
            raise ValueError(f"parts: expected one step at least, got {given}")
        return torch.linspace(0, 1, given + 1, dtype=torch.float64, device="cpu")
    made = torch.tensor(list(given), dtype=torch.float64, device="cpu")
    rising = len(made) > 1 and bool((made.diff() > 0).all())
    if not rising or made[0] != 0 or made[-1] != 1:
        raise ValueError(f"parts: expected numbers rising from 0 to 1, got {list(given)}")
    return made


def _checked(images: Tensor, scores: Tensor, target: Tensor, grid: PatchGrid) -> Tensor:
    """The scores as (B, P), if all belongs together."""
    scores = scores.flatten(1) if scores.ndim == 3 else scores
    grid.check(scores, "scores")
    if not len(images) == len(scores) == len(target):
        raise ShapeError(
            f"scores, target: expected one row for each of {len(images)} images, got "
            f"{len(scores)} and {len(target)}"
        )
    if tuple(images.shape[-2:]) != grid.image_size:
        raise ShapeError(
            f"images: expected {grid.image_size[0]}x{grid.image_size[1]} pixels as the grid has, "
            f"got {tuple(images.shape[-2:])}"
        )
    return scores.detach()
