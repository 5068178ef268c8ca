"""Localization: whether a map points at the object, its mask being known.

All take `heat` (B, H, W), of any scale, and `mask` (B, H, W), true on the object, and give (B,)
double precision; NaN where a mask is empty or all of the image, since nothing can be told there.
Equal values count as scikit-learn counts them: together.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError


def pointing_game(heat: Tensor, mask: Tensor, tolerance: int = 0) -> Tensor:
    """1 where the greatest value lies on the object, or within `tolerance` pixels of it.

    Where several pixels have the greatest value, the part of them that does. Source: Zhang et al.
    2016 (arXiv 1608.00507), who allow 15 pixels.
    """
    heat, mask = _checked(heat, mask)
    inside = mask
    if tolerance:
        reach = torch.arange(-tolerance, tolerance + 1)
        disc = (reach[:, None] ** 2 + reach**2 <= tolerance**2).double()
        near = F.conv2d(mask[:, None].double(), disc[None, None], padding=tolerance)
        inside = near[:, 0] > 0.5
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
    found = (energy * mask).sum(dim=(1, 2)) / whole.clamp(min=torch.finfo(torch.double).tiny)
    return _known(found, mask)


def energy_over_chance(heat: Tensor, mask: Tensor) -> Tensor:
    """`energy_pointing_game` over the part of the image that the object takes: 1 is chance."""
    return energy_pointing_game(heat, mask) / mask.double().mean(dim=(1, 2))


def average_precision(heat: Tensor, mask: Tensor) -> Tensor:
    """Average precision of the pixels, as scikit-learn's: sum of precision times gain of recall."""
    heat, mask = _checked(heat, mask)
    hits, taken, last = _ranked(heat.flatten(1), mask.flatten(1).double())
    found = hits[:, -1:].clamp(min=1)
    # At the last of each run of equals stand the precision there and the recall gained by the run.
    before = torch.where(last, hits, 0).cummax(dim=1).values
    gained = hits - F.pad(before[:, :-1], (1, 0))
    made = torch.where(last, hits / taken * gained, 0).sum(dim=1) / found[:, 0]
    return _known(made, mask)


def auroc(heat: Tensor, mask: Tensor) -> Tensor:
    """Area under the ROC curve: how often the object's pixel has more, equals counted half."""
    heat, mask = _checked(heat, mask)
    ones = torch.ones_like(mask.flatten(1), dtype=torch.double)
    return _known(_auroc(heat.flatten(1), mask.flatten(1).double(), ones), mask)


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
    if others is None:
        counts = mask.double().sum(dim=0, keepdim=True) - mask.double()
    else:
        if others.shape[1:] != mask.shape[1:]:
            raise ShapeError(
                f"others: expected masks (M, {mask.shape[1]}, {mask.shape[2]}), got "
                f"{tuple(others.shape)}"
            )
        counts = others.double().sum(dim=0, keepdim=True).expand_as(mask)
    counts = torch.where(mask, 1.0, counts)
    found = _auroc(heat.flatten(1), mask.flatten(1).double(), counts.flatten(1).contiguous())
    some = (counts * ~mask).sum(dim=(1, 2)) > 0
    return torch.where(some, _known(found, mask), torch.nan)


def iou_at_mean(heat: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union with the pixels above the map's own mean."""
    heat, mask = _checked(heat, mask)
    exact = heat.double()
    above = exact > exact.mean(dim=(1, 2), keepdim=True)
    found = (above & mask).sum(dim=(1, 2)).double() / (above | mask).sum(dim=(1, 2))
    return _known(found, mask)


def iou_area_matched(heat: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union with as many pixels, of greatest value, as the object has.

    Of equals on the border only a part is taken; it is counted as if it were drawn at random.
    """
    heat, mask = _checked(heat, mask)
    flat, own = heat.flatten(1), mask.flatten(1)
    size = own.sum(dim=1)
    border = flat.sort(dim=1, descending=True).values.gather(1, (size - 1).clamp(min=0)[:, None])
    above, equal = flat > border, flat == border
    part = (size - above.sum(dim=1)).double() / equal.sum(dim=1)
    common = (above & own).sum(dim=1) + part * (equal & own).sum(dim=1)
    return _known(common / (2 * size - common), mask)


def _ranked(flat: Tensor, hits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From the greatest down: how many hits, of how many, and whether a run of equals ends."""
    values, order = flat.sort(dim=1, descending=True)
    found = hits.gather(1, order).cumsum(dim=1)
    taken = torch.arange(1, flat.shape[1] + 1, dtype=torch.double).expand_as(found)
    last = F.pad(values[:, 1:] != values[:, :-1], (0, 1), value=True)
    return found, taken, last


def _auroc(flat: Tensor, positive: Tensor, counts: Tensor) -> Tensor:
    """AUROC of positives against the others, each pixel taken `counts` times."""
    hits, _, last = _ranked(flat, positive)
    false, _, _ = _ranked(flat, counts * (1 - positive))
    made = []
    for own, wrong, ends in zip(hits, false, last, strict=True):
        y, x = F.pad(own[ends], (1, 0)), F.pad(wrong[ends], (1, 0))
        made.append(torch.trapezoid(y / y[-1].clamp(min=1e-12), x / x[-1].clamp(min=1e-12)))
    return torch.stack(made)


def _known(found: Tensor, mask: Tensor) -> Tensor:
    part = mask.double().mean(dim=(1, 2))
    return torch.where((part > 0) & (part < 1), found, torch.nan)


def _checked(heat: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if heat.ndim != 3 or heat.shape != mask.shape or mask.dtype != torch.bool:
        raise ShapeError(
            f"heat, mask: expected (B, H, W) both, the mask of bool, got {tuple(heat.shape)} and "
            f"{tuple(mask.shape)} of {str(mask.dtype).removeprefix('torch.')}"
        )
    if not bool(heat.isfinite().all()):
        raise ValueError("heat: expected finite numbers, got NaN or infinity — clean it first")
    return heat.detach(), mask
