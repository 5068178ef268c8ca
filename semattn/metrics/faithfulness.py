"""Faithfulness metrics: deletion, insertion, and the change of the output under noise.

Most metrics are computed from two curves. Deletion removes the patches with the highest scores
first from the image; insertion adds them first to the baseline. Removing the lowest scores first
(LeRF) is insertion in reverse. The area between LeRF and MoRF is therefore insertion minus
deletion, on logits. Infidelity and max-sensitivity (Yeh et al. 2019, arXiv 1901.09392) are computed
by Captum with separate random generators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..grid import PatchGrid
from ..utils.library_imports import metrics
from .perturbation import Fill, fill_of, kept_pixels, ranks

Predict = Callable[[Tensor], Tensor]  # from images (N, C, H, W) to logits (N, K)
Probabilities = Callable[[Tensor], Tensor]  # from logits (N, K) to probabilities (N, K)


def softmax(logits: Tensor) -> Tensor:
    """Return the probabilities (N, K) of class logits (N, K)."""
    return logits.softmax(dim=1)


ERASER = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Fractions of patches at which sufficiency and comprehensiveness are averaged (arXiv 1911.03429).

The ends, 0 and 1, are reference points and are not averaged.
"""


@dataclass(frozen=True)
class Curves:
    """Deletion and insertion curves of each image.

    Parameters
    ----------
    fractions : (S + 1,), fraction of the patches that are removed or inserted
    deletion, insertion : probability of the target, (B, S + 1)
    deletion_logit, insertion_logit : logit of the target, (B, S + 1)
    """

    fractions: Tensor
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
    fractions: Sequence[float] | int = 16,
    batch_size: int = 32,
    seed: int = 0,
    probabilities: Probabilities = softmax,
) -> Curves:
    """Compute the deletion and insertion curves of patches ordered by score.

    Parameters
    ----------
    predict : images (N, C, H, W) to logits (N, K); called under ``torch.inference_mode``
    images : model inputs (B, C, H, W)
    scores : (B, P) or (B, h, w), any scale; ties are ordered by the seed
    target : (B,), the class of each image
    grid : patch grid
    baseline, black : content of removed patches; see `perturbation.fill_of`
    fractions : number of equal steps, or the fractions themselves, increasing from 0 to 1
    batch_size : number of perturbed images per model call
    probabilities : function from the float64 output of `predict` to probabilities, for outputs
        other than class logits; see `semattn.targets.OutputMeaning.score_probabilities`

    Returns
    -------
    Curves
        On the CPU, in double precision. The full image and the full baseline are evaluated once.

    Raises
    ------
    ShapeError, ValueError
        If scores, targets or fractions do not match.

    Source: Petsiuk et al. 2018 (arXiv 1806.07421); Samek et al. 2017 (MoRF, LeRF).
    """
    scores = _check_inputs(images, scores, target, grid)
    steps = _as_fractions(fractions)
    num_removed = (steps * grid.patches).round().long()
    rank = ranks(scores, seed)
    fill = fill_of(baseline, images, black)
    removed = rank[:, None] < num_removed[:, None].to(rank.device)  # (B, S + 1, P)
    keep = torch.cat([~removed, removed[:, 1:-1]], dim=1).flatten(0, 1)
    index = torch.arange(len(images), device=images.device).repeat_interleave(2 * len(steps) - 2)
    outputs = _target_outputs(predict, fill, index, keep, target, grid, batch_size, probabilities)
    logit, probability = (output.unflatten(0, (len(images), -1)) for output in outputs)
    return Curves(
        steps.double(), *_split_curves(probability, len(steps)), *_split_curves(logit, len(steps))
    )


def _split_curves(values: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Split values (B, 2S) into both curves (B, S + 1)."""
    deletion, insertion_middle = values[:, :points], values[:, points:]
    return deletion, torch.cat([deletion[:, -1:], insertion_middle, deletion[:, :1]], dim=1)


@torch.inference_mode()
def _target_outputs(
    predict: Predict,
    fill: Fill,
    index: Tensor,
    keep: Tensor,
    target: Tensor,
    grid: PatchGrid,
    batch_size: int,
    probabilities: Probabilities,
) -> tuple[Tensor, Tensor]:
    """Return the target logit and probability of each perturbed image (N,), on the CPU."""
    target_logits, target_probabilities = [], []
    target_classes = target.to(index.device)
    for start in range(0, len(index), batch_size):
        batch = slice(start, start + batch_size)
        logits_batch = predict(fill(index[batch], kept_pixels(keep[batch], grid)))
        if logits_batch.ndim != 2 or len(logits_batch) != len(index[batch]):
            raise ShapeError(
                f"predict: expected logits ({len(index[batch])}, K), got "
                f"{tuple(logits_batch.shape)} — pass "
                "a function from images to the logits of all classes"
            )
        column = target_classes[index[batch]][:, None].cpu()
        logits64 = logits_batch.cpu().double()
        target_logits.append(logits64.gather(1, column)[:, 0])
        target_probabilities.append(probabilities(logits64).gather(1, column)[:, 0])
    return torch.cat(target_logits), torch.cat(target_probabilities)


def area(fractions: Tensor, values: Tensor) -> Tensor:
    """Compute the trapezoidal area (B,) under values (B, S + 1) over the fractions (S + 1,)."""
    return torch.trapezoid(values, fractions.to(values), dim=1)


def deletion(curve: Curves) -> Tensor:
    """Compute the area under the deletion curve, (B,); lower is better."""
    return area(curve.fractions, curve.deletion)


def insertion(curve: Curves) -> Tensor:
    """Compute the area under the insertion curve, (B,); higher is better."""
    return area(curve.fractions, curve.insertion)


def insertion_deletion(curve: Curves) -> Tensor:
    """Compute insertion minus deletion, (B,) in [-1, 1]; 0 is expected for a random map."""
    return insertion(curve) - deletion(curve)


def lerf_morf(curve: Curves) -> Tensor:
    """Compute the area (B,) between the LeRF and MoRF curves, in logits."""
    return area(curve.fractions, curve.insertion_logit) - area(
        curve.fractions, curve.deletion_logit
    )


def aopc(curve: Curves) -> Tensor:
    """Compute the mean probability loss (B,) over the deletion curve (Samek 2017)."""
    return (curve.deletion[:, :1] - curve.deletion).mean(dim=1)


def comprehensiveness(curve: Curves) -> Tensor:
    """Compute the mean probability loss (B,) without the top patches; higher is better.

    With the fractions `ERASER`, this is the metric of DeYoung et al. 2020.
    """
    return (curve.deletion[:, :1] - curve.deletion[:, 1:-1]).mean(dim=1)


def sufficiency(curve: Curves) -> Tensor:
    """Compute the mean probability loss (B,) with the top patches only; lower is better."""
    return (curve.deletion[:, :1] - curve.insertion[:, 1:-1]).mean(dim=1)


def faithfulness_correlation(
    predict: Predict,
    images: Tensor,
    scores: Tensor,
    target: Tensor,
    *,
    grid: PatchGrid,
    baseline: Any = "blur",
    black: Sequence[float] | None = None,
    fraction: float = 0.2,
    n_sets: int = 64,
    batch_size: int = 32,
    seed: int = 0,
    probabilities: Probabilities = softmax,
) -> Tensor:
    """Compute the correlation (B,) of the score of a random set with its probability loss.

    NaN if the scores or the losses are constant. Source: Bhatt et al. 2020
    (arXiv 2005.00631).

    Parameters
    ----------
    fraction : fraction of the patches in each set
    n_sets : number of sets; the same sets for all images
    others : as for `curves`
    """
    scores = _check_inputs(images, scores, target, grid)
    set_size = round(fraction * grid.patches)
    if not 1 <= set_size < grid.patches or n_sets < 2:
        raise ValueError(
            f"fraction, n_sets: expected sets of 1 to {grid.patches - 1} patches and at least 2 "
            f"sets, got {set_size} and {n_sets} — the defaults are 0.2 and 64"
        )
    rng = torch.Generator().manual_seed(seed)
    sets = torch.stack(
        [torch.randperm(grid.patches, generator=rng, device="cpu") for _ in range(n_sets)]
    )
    removed = torch.zeros(n_sets + 1, grid.patches, dtype=torch.bool, device="cpu")
    removed[1:].scatter_(1, sets[:, :set_size], True)
    keep = (~removed).to(images.device).repeat(len(images), 1)
    index = torch.arange(len(images), device=images.device).repeat_interleave(n_sets + 1)
    fill = fill_of(baseline, images, black)
    _, probability = _target_outputs(
        predict, fill, index, keep, target, grid, batch_size, probabilities
    )
    probability = probability.unflatten(0, (len(images), -1))
    probability_loss = probability[:, :1] - probability[:, 1:]
    removed_score = scores.cpu().double() @ removed[1:].double().T
    return _pearson(removed_score, probability_loss)


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """Compute Pearson's correlation of each row, (B,)."""
    x = x - x.mean(dim=1, keepdim=True)
    y = y - y.mean(dim=1, keepdim=True)
    scale = x.norm(dim=1) * y.norm(dim=1)
    return torch.where(scale > 0, (x * y).sum(dim=1) / scale, torch.nan)


def _as_fractions(fractions: Sequence[float] | int) -> Tensor:
    if isinstance(fractions, int):
        if fractions < 1:
            raise ValueError(f"fractions: expected at least one step, got {fractions}")
        return torch.linspace(0, 1, fractions + 1, dtype=torch.float64, device="cpu")
    values = torch.tensor(list(fractions), dtype=torch.float64, device="cpu")
    is_increasing = len(values) > 1 and bool((values.diff() > 0).all())
    if not is_increasing or values[0] != 0 or values[-1] != 1:
        raise ValueError(
            f"fractions: expected numbers increasing from 0 to 1, got {list(fractions)}"
        )
    return values


def _check_inputs(images: Tensor, scores: Tensor, target: Tensor, grid: PatchGrid) -> Tensor:
    """Return the scores as (B, P); raise if the shapes do not match."""
    scores = scores.flatten(1) if scores.ndim == 3 else scores
    grid.check(scores, "scores")
    if not len(images) == len(scores) == len(target):
        raise ShapeError(
            f"scores, target: expected one row for each of {len(images)} images, got "
            f"{len(scores)} and {len(target)}"
        )
    if tuple(images.shape[-2:]) != grid.image_size:
        raise ShapeError(
            f"images: expected {grid.image_size[0]}x{grid.image_size[1]} pixels as in the grid, "
            f"got {tuple(images.shape[-2:])}"
        )
    return scores.detach()


def infidelity(
    predict: Predict,
    images: Tensor,
    attribution: Tensor,
    target: Tensor,
    *,
    noise: float = 0.2,
    n_samples: int = 10,
    normalize: bool = True,
    seed: int = 0,
) -> Tensor:
    """Compute the error (B,) of an attribution as predictor of the logit change under noise.

    Parameters
    ----------
    predict : images (N, C, H, W) to logits (N, K)
    images, attribution : (B, C, H, W)
    target : (B,)
    noise : standard deviation of Gaussian noise, in units of the input
    n_samples : number of noise samples for each image
    normalize : scale the attribution to the best fit, so that its unit has no effect
    """
    if attribution.shape != images.shape:
        raise ShapeError(
            f"attribution: expected {tuple(images.shape)} as the images, got "
            f"{tuple(attribution.shape)} — pass one value per pixel and channel"
        )
    rng = torch.Generator().manual_seed(seed)

    def perturb(inputs: Any) -> tuple[Tensor, Tensor]:
        noise_sample = noise * torch.randn(inputs.shape, generator=rng, device="cpu")
        noise_sample = noise_sample.to(inputs)
        return noise_sample, inputs - noise_sample

    with torch.no_grad():
        result: Tensor = metrics.infidelity(
            predict, perturb, images, attribution.detach(), target=target,
            n_perturb_samples=n_samples, normalize=normalize,
        )  # fmt: skip
    return result.cpu().double()


def max_sensitivity(
    explain: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    radius: float = 0.02,
    n_samples: int = 10,
    seed: int = 0,
) -> Tensor:
    """Compute the maximum relative change (B,) of a map under pixel noise of at most `radius`.

    Parameters
    ----------
    explain : images (N, C, H, W) to maps (N, …), with the same class for all samples of an image
    radius : in units of the input
    n_samples : number of noise samples for each image
    """
    rng = torch.Generator().manual_seed(seed)

    def perturb(inputs: Any, perturb_radius: float = radius) -> tuple[Tensor, ...]:
        is_single = isinstance(inputs, Tensor)
        return tuple(
            tensor
            + perturb_radius
            * (2 * torch.rand(tensor.shape, generator=rng, device="cpu") - 1).to(tensor)
            for tensor in ((inputs,) if is_single else inputs)
        )

    result: Tensor = metrics.sensitivity_max(
        lambda *args: (explain(args[0][0] if isinstance(args[0], tuple) else args[0]),),
        images, perturb_func=perturb, perturb_radius=radius, n_perturb_samples=n_samples,
    )  # fmt: skip
    return result.detach().cpu().double()
