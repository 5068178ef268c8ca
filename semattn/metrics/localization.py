"""Localization metrics, and the sparseness of a map.

Localization functions take `heat_map` (B, H, W), any scale, and `mask` (B, H, W), true on the
object, and return (B,) in double precision on the CPU. The result is NaN, undefined, if a mask is
empty or covers the image. Ties are handled as in scikit-learn. Sparseness (`gini`, `complexity`)
needs no mask; it says nothing about the correctness of a map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError


def pointing_game(heat_map: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """Return 1 if the maximum is on the object or within `tolerance` pixels of it, else 0.

    With several maximal pixels, return the fraction that is on the object. Source: Zhang et al.
    2016 (arXiv 1608.00507), with a tolerance of 15 pixels.

    Examples
    --------
    >>> heat_map = torch.tensor([[[3.0, 1.0], [3.0, 2.0]]])
    >>> mask = torch.tensor([[[True, True], [False, False]]])
    >>> pointing_game(heat_map, mask).item()
    0.5
    """
    heat_map, mask = _check_maps(heat_map, mask)
    if tolerance < 0:
        raise ValueError(
            f"tolerance: expected at least 0 pixels, got {tolerance} — the default is 0"
        )
    inside = _dilate(mask, tolerance) if tolerance else mask
    is_maximum = heat_map == heat_map.amax(dim=(1, 2), keepdim=True)
    hit_rate = (is_maximum & inside).sum(dim=(1, 2)).double() / is_maximum.sum(dim=(1, 2))
    return _mask_undefined(hit_rate, mask)


def energy_pointing_game(heat_map: Tensor, mask: Tensor) -> Tensor:
    """Compute the fraction of the sum of positive values on the object; 0 without positive values.

    Source: Wang et al. 2020 (arXiv 1910.01279).
    """
    heat_map, mask = _check_maps(heat_map, mask)
    energy = heat_map.double().clamp(min=0)
    total = energy.sum(dim=(1, 2))
    fraction = (energy * mask).sum(dim=(1, 2)) / total
    fraction = torch.where(total == 0, 0, fraction)
    return _mask_undefined(fraction, mask)


def energy_over_chance(heat_map: Tensor, mask: Tensor) -> Tensor:
    """Compute `energy_pointing_game` divided by the area fraction of the object; 1 is chance."""
    return energy_pointing_game(heat_map, mask) / mask.cpu().double().mean(dim=(1, 2))


def average_precision(heat_map: Tensor, mask: Tensor) -> Tensor:
    """Compute the average precision of the pixels, as in scikit-learn."""
    heat_map, mask = _check_maps(heat_map, mask)
    values, labels = heat_map.flatten(1), mask.flatten(1).double()
    hits, ends = _cumulative_hits(values, labels)
    num_selected = torch.arange(1, values.shape[1] + 1, dtype=torch.double, device="cpu")
    precision = (hits / num_selected * _run_gains(hits, ends)).sum(dim=1) / labels.sum(dim=1).clamp(
        min=1
    )
    return _mask_undefined(precision, mask)


def auroc(heat_map: Tensor, mask: Tensor) -> Tensor:
    """Compute the area under the ROC curve of the pixels; ties count half."""
    heat_map, mask = _check_maps(heat_map, mask)
    return _mask_undefined(_auroc(heat_map, mask, torch.ones_like(mask)), mask)


def shuffled_auroc(heat_map: Tensor, mask: Tensor, others: Tensor | None = None) -> Tensor:
    """Compute the AUROC against the object locations of other images, to correct center bias.

    Each pixel off the object is weighted by the number of other images with an object there.
    Source: Zhang et al. 2008 (SUN), for fixations.

    Parameters
    ----------
    others : (M, H, W), masks of other images; None uses the other masks of the batch

    Returns
    -------
    Tensor
        (B,); NaN also if all other objects are inside this object.
    """
    heat_map, mask = _check_maps(heat_map, mask)
    other_masks = mask if others is None else others.cpu()
    if other_masks.shape[1:] != mask.shape[1:]:
        raise ShapeError(
            f"others: expected masks (M, {mask.shape[1]}, {mask.shape[2]}), got "
            f"{tuple(other_masks.shape)} — resize them to the map"
        )
    # The mask of an image itself only adds to its object pixels, which are not counted.
    counts = other_masks.double().sum(dim=0, keepdim=True).expand_as(mask)
    score = _auroc(heat_map, mask, counts)
    has_negatives = (counts * ~mask).sum(dim=(1, 2)) > 0
    return torch.where(has_negatives, _mask_undefined(score, mask), torch.nan)


def iou_at_mean(heat_map: Tensor, mask: Tensor) -> Tensor:
    """Compute the intersection over union of the pixels above the mean; 0 for a uniform map."""
    heat_map, mask = _check_maps(heat_map, mask)
    values = heat_map.double()
    # The mean of equal numbers may be rounded below them; the minimum is never above the mean.
    threshold = torch.maximum(
        values.mean(dim=(1, 2), keepdim=True), values.amin((1, 2), keepdim=True)
    )
    above = values > threshold
    iou = (above & mask).sum(dim=(1, 2)).double() / (above | mask).sum(dim=(1, 2))
    return _mask_undefined(iou, mask)


def iou_area_matched(heat_map: Tensor, mask: Tensor) -> Tensor:
    """Compute the intersection over union of the top pixels, as many as the object has.

    Ties at the threshold are counted by their expected value under random order. A uniform map
    therefore has the IoU of a random overlap.
    """
    heat_map, mask = _check_maps(heat_map, mask)
    values, labels = heat_map.flatten(1), mask.flatten(1)
    size = labels.sum(dim=1)
    threshold = values.sort(dim=1, descending=True).values.gather(
        1, (size - 1).clamp(min=0)[:, None]
    )
    above, equal = values > threshold, values == threshold
    share = (size - above.sum(dim=1)).double() / equal.sum(dim=1)
    intersection = (above & labels).sum(dim=1) + share * (equal & labels).sum(dim=1)
    return _mask_undefined(intersection / (2 * size - intersection), mask)


def _dilate(mask: Tensor, tolerance: int) -> Tensor:
    """Dilate a mask by a disc of radius `tolerance`, row by row."""
    height, width = mask.shape[1:]
    sums = F.pad(mask.long().cumsum(dim=2), (1, 0))
    x = torch.arange(width, device="cpu")
    dilated = torch.zeros_like(mask)
    for dy in range(min(tolerance, height - 1) + 1):
        dx = math.isqrt(tolerance**2 - dy**2)
        ends = (x + dx + 1).clamp(max=width), (x - dx).clamp(min=0)
        row = sums[:, :, ends[0]] > sums[:, :, ends[1]]
        dilated[:, dy:] |= row[:, : height - dy]
        dilated[:, : height - dy] |= row[:, dy:]
    return dilated


def _cumulative_hits(flat: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return cumulative weights in descending order of values, and true at the end of each tie."""
    values, order = flat.sort(dim=1, descending=True)
    ends = F.pad(values[:, 1:] != values[:, :-1], (0, 1), value=True)
    return weights.gather(1, order).cumsum(dim=1), ends


def _run_gains(sums: Tensor, ends: Tensor) -> Tensor:
    """Return the increase of a sum over each tie, at the end of the tie; 0 elsewhere."""
    previous = torch.where(ends, sums, 0).cummax(dim=1).values
    return torch.where(ends, sums - F.pad(previous[:, :-1], (1, 0)), 0)


def _auroc(heat_map: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """Compute the AUROC of object pixels against the rest, weighted by `counts`."""
    values, labels = heat_map.flatten(1), mask.flatten(1)
    hits, ends = _cumulative_hits(values, labels.double())
    false_hits, _ = _cumulative_hits(values, torch.where(labels, 0, counts.flatten(1).double()))
    # For each negative: the hits with higher values, and half of the tied hits.
    num_ordered = (hits - _run_gains(hits, ends) / 2) * _run_gains(false_hits, ends)
    return num_ordered.sum(dim=1) / (hits[:, -1] * false_hits[:, -1]).clamp(min=1)


def _mask_undefined(values: Tensor, mask: Tensor) -> Tensor:
    fraction = mask.double().mean(dim=(1, 2))
    return torch.where((fraction > 0) & (fraction < 1), values, torch.nan)


def _check_maps(heat_map: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if heat_map.ndim != 3 or heat_map.shape != mask.shape or mask.dtype != torch.bool:
        raise ShapeError(
            "heat_map, mask: expected (B, H, W) for both and a bool mask, got "
            f"{tuple(heat_map.shape)} and {tuple(mask.shape)} of "
            f"{str(mask.dtype).removeprefix('torch.')} — "
            "pass one map and one mask per image, of the same size"
        )
    if not bool(heat_map.isfinite().all()):
        raise ValueError(
            "heat_map: expected finite numbers, got NaN or infinity — replace them first"
        )
    return heat_map.detach().cpu(), mask.cpu()


def gini(values: Tensor) -> Tensor:
    """Compute the Gini index of the magnitudes of values (B, …): 0 is uniform, near 1 is sparse.

    With the magnitudes in ascending order, `1 − 2 Σ_k |v|_k / Σ|v| · (n − k + ½) / n`, k from 1.
    It is 0 if all values are 0. Source: Hurley & Rickard 2009 (arXiv 0811.4706).

    Examples
    --------
    >>> gini(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 2.0]])).tolist()
    [0.0, 0.75]
    """
    magnitudes = _magnitudes(values).sort(dim=1).values
    count = magnitudes.shape[1]
    weight = (count - torch.arange(count, dtype=torch.double, device="cpu") - 0.5) / count
    total = magnitudes.sum(dim=1)
    index = 1 - 2 * (magnitudes * weight).sum(dim=1) / total
    return torch.where(total == 0, 0.0, index)


def complexity(values: Tensor) -> Tensor:
    """Compute the entropy of the normalised magnitudes of values (B, …), nats.

    0 for a single non-zero value, log n for a uniform map, NaN if all are 0. Source: Bhatt et al.
    2020 (arXiv 2005.00631).

    Examples
    --------
    >>> complexity(torch.tensor([[0.0, 0.0, 2.0]])).tolist()
    [0.0]
    """
    magnitudes = _magnitudes(values)
    return torch.special.entr(magnitudes / magnitudes.sum(dim=1, keepdim=True)).sum(dim=1)


def _magnitudes(values: Tensor) -> Tensor:
    if values.ndim < 2:
        raise ShapeError(
            f"values: expected (B, …), got {tuple(values.shape)} — pass one map as values[None]"
        )
    return values.detach().cpu().double().flatten(1).abs()
