"""Localization: whether a map points at the object, its mask being known.

All take `heat` (B, H, W), of any scale, and `mask` (B, H, W), true on the object, and give (B,)
double precision on the CPU; NaN where a mask is empty or all of the image, since nothing can be
told there. Equal values count as scikit-learn counts them: together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError


def pointing_game(heat: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """1 where the greatest value lies on the object, or within `tolerance` pixels of it.

    Where several pixels have the greatest value, the part of them that does. Source: Zhang et al.
    2016 (arXiv 1608.00507), who allow 15 pixels.

    Examples
    --------
    >>> heat = torch.tensor([[[3.0, 1.0], [3.0, 2.0]]])
    >>> mask = torch.tensor([[[True, True], [False, False]]])
    >>> pointing_game(heat, mask).item()
    0.5
    """
    heat, mask = _checked(heat, mask)
    if tolerance < 0:
        raise ValueError(f"tolerance: expected 0 pixels at least, got {tolerance} — leave it out")
    inside = _near(mask, tolerance) if tolerance else mask
    top = heat == heat.amax(dim=(1, 2), keepdim=True)
    found = (top & inside).sum(dim=(1, 2)).double() / top.sum(dim=(1, 2))
    return _known(found, mask)


def energy_pointing_game(heat: Tensor, mask: Tensor) -> Tensor:
    """The part of the positive values' sum that lies on the object; 0 for a map without any.

    Source: Wang et al. 2020 (arXiv 1910.01279).
    """
    heat, mask = _checked(heat, mask)
    energy = heat.double().clamp(min=0)
    whole = energy.sum(dim=(1, 2))
    found = (energy * mask).sum(dim=(1, 2)) / whole
    found = torch.where(whole == 0, 0, found)
    return _known(found, mask)


def energy_over_chance(heat: Tensor, mask: Tensor) -> Tensor:
    """`energy_pointing_game` over the part of the image that the object takes: 1 is chance."""
    return energy_pointing_game(heat, mask) / mask.cpu().double().mean(dim=(1, 2))


def average_precision(heat: Tensor, mask: Tensor) -> Tensor:
    """Average precision of the pixels, as scikit-learn's: sum of precision times gain of recall."""
    heat, mask = _checked(heat, mask)
    flat, own = heat.flatten(1), mask.flatten(1).double()
    hits, ends = _ranked(flat, own)
    taken = torch.arange(1, flat.shape[1] + 1, dtype=torch.double, device="cpu")
    made = (hits / taken * _gained(hits, ends)).sum(dim=1) / own.sum(dim=1).clamp(min=1)
    return _known(made, mask)


def auroc(heat: Tensor, mask: Tensor) -> Tensor:
    """Area under the ROC curve: how often the object's pixel has more, equals counted half."""
    heat, mask = _checked(heat, mask)
    return _known(_auroc(heat, mask, torch.ones_like(mask)), mask)


def shuffled_auroc(heat: Tensor, mask: Tensor, others: Tensor | None = None) -> Tensor:
    """AUROC against where the objects of other images are, so that the centre wins nothing.

    Each pixel off the object counts as often as it lies on the object in the others. Source: Zhang
    et al. 2008 (SUN), for fixations.

    Parameters
    ----------
    others : (M, H, W), masks of other images; None is those of the batch, each but its own

    Returns
    -------
    NaN also where the others' objects lie nowhere but on this one.
    """
    heat, mask = _checked(heat, mask)
    pool = mask if others is None else others.cpu()
    if pool.shape[1:] != mask.shape[1:]:
        raise ShapeError(
            f"others: expected masks (M, {mask.shape[1]}, {mask.shape[2]}), got "
            f"{tuple(pool.shape)} — give them at the size of the map"
        )
    # An image's own mask adds to its own object alone, where nothing is counted.
    counts = pool.double().sum(dim=0, keepdim=True).expand_as(mask)
    found = _auroc(heat, mask, counts)
    some = (counts * ~mask).sum(dim=(1, 2)) > 0
    return torch.where(some, _known(found, mask), torch.nan)


def iou_at_mean(heat: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union with the pixels above the map's own mean; 0 for an even map."""
    heat, mask = _checked(heat, mask)
    exact = heat.double()
    # The mean of equal numbers may be rounded below them; the least value is above no mean.
    floor = torch.maximum(exact.mean(dim=(1, 2), keepdim=True), exact.amin((1, 2), keepdim=True))
    above = exact > floor
    found = (above & mask).sum(dim=(1, 2)).double() / (above | mask).sum(dim=(1, 2))
    return _known(found, mask)


def iou_area_matched(heat: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union with as many pixels, of greatest value, as the object has.

    Of equals on the border only a part is taken; the object has its expected share of them, as if
    they were drawn at random. So an even map has the IoU of an overlap by chance.
    """
    heat, mask = _checked(heat, mask)
    flat, own = heat.flatten(1), mask.flatten(1)
    size = own.sum(dim=1)
    border = flat.sort(dim=1, descending=True).values.gather(1, (size - 1).clamp(min=0)[:, None])
    above, equal = flat > border, flat == border
    part = (size - above.sum(dim=1)).double() / equal.sum(dim=1)
    common = (above & own).sum(dim=1) + part * (equal & own).sum(dim=1)
    return _known(common / (2 * size - common), mask)


def _near(mask: Tensor, tolerance: int) -> Tensor:
    """Whether a pixel is at most `tolerance` from the mask: row by row of a disc."""
    height, width = mask.shape[1:]
    sums = F.pad(mask.long().cumsum(dim=2), (1, 0))
    x = torch.arange(width, device="cpu")
    near = torch.zeros_like(mask)
    for down in range(min(tolerance, height - 1) + 1):
        half = math.isqrt(tolerance**2 - down**2)
        ends = (x + half + 1).clamp(max=width), (x - half).clamp(min=0)
        row = sums[:, :, ends[0]] > sums[:, :, ends[1]]
        near[:, down:] |= row[:, : height - down]
        near[:, : height - down] |= row[:, down:]
    return near


def _ranked(flat: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """From the greatest down: the sum of the weights so far, and whether a run of equals ends."""
    values, order = flat.sort(dim=1, descending=True)
    ends = F.pad(values[:, 1:] != values[:, :-1], (0, 1), value=True)
    return weights.gather(1, order).cumsum(dim=1), ends


def _gained(sums: Tensor, ends: Tensor) -> Tensor:
    """What a run of equals adds to a sum, at the run's end; 0 elsewhere."""
    before = torch.where(ends, sums, 0).cummax(dim=1).values
    return torch.where(ends, sums - F.pad(before[:, :-1], (1, 0)), 0)


def _auroc(heat: Tensor, mask: Tensor, counts: Tensor) -> Tensor:
    """AUROC of the object against the rest, each pixel of which is taken `counts` times."""
    flat, own = heat.flatten(1), mask.flatten(1)
    hits, ends = _ranked(flat, own.double())
    false, _ = _ranked(flat, torch.where(own, 0, counts.flatten(1).double()))
    # Of each run's wrong ones: the hits above them, and half of their equals.
    beaten = (hits - _gained(hits, ends) / 2) * _gained(false, ends)
    return beaten.sum(dim=1) / (hits[:, -1] * false[:, -1]).clamp(min=1)


def _known(found: Tensor, mask: Tensor) -> Tensor:
    part = mask.double().mean(dim=(1, 2))
    return torch.where((part > 0) & (part < 1), found, torch.nan)


def _checked(heat: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if heat.ndim != 3 or heat.shape != mask.shape or mask.dtype != torch.bool:
        raise ShapeError(
            f"heat, mask: expected (B, H, W) both, the mask of bool, got {tuple(heat.shape)} and "
            f"{tuple(mask.shape)} of {str(mask.dtype).removeprefix('torch.')} — "
            "give one map and one mask an image, at one size"
        )
    if not bool(heat.isfinite().all()):
        raise ValueError("heat: expected finite numbers, got NaN or infinity — clean it first")
    return heat.detach().cpu(), mask.cpu()
