"""From some patches to the thing that they belong to, over patches of like keys.

Attention looks for keys: patches whose keys are alike are one thing to a layer.
A random walk with restart (as in random-walker segmentation, Grady 2006) goes from patch to patch
where a layer's keys are alike. A layer that makes its own softmax keeps no keys: there nothing is
grown.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import SiteRecord
from .grid import PatchGrid

ALIKE = 0.6  # cosine of the keys of two patches that count as one thing
REACH = 0.99  # of what a patch of a region has, the part that is its neighbours'
GROWTH = 0.9  # the same of a map's
APART = 1e-5  # how much even patches that are not alike have in common
AT_ONCE = 1 << 22  # pairs of patches that are numbers at one time
EXACT = 16  # rounding errors that may be left


def grown(one: SiteRecord, grid: PatchGrid, weights: Tensor) -> Tensor:
    """Weights (B, P), even over each thing, less the middle of their range; at least 0."""
    even = walked(one, grid, weights[:, :, None])
    if even is None:
        return weights
    least, greatest = even[..., 0].aminmax(dim=1, keepdim=True)
    return (even[..., 0] - (least + greatest) / 2).clamp(min=0)


def within(one: SiteRecord, grid: PatchGrid, share: Tensor) -> Tensor:
    """`share` (B, P) of patches in a region, times how sure each is of its inside, in [0, 1].

    That is what reaches a patch from inside against what reaches it from outside, where both
    start with the same amount. A region that is the whole image stays as it is.
    """
    outside = 1 - share
    if not bool((outside.sum(dim=1) > 0).all()):
        return share
    starts = torch.stack([side / side.sum(dim=1, keepdim=True) for side in (share, outside)], -1)
    reached = walked(one, grid, starts)
    if reached is None:
        return share
    inside, other = reached.unbind(dim=-1)
    return share * inside / (inside + other)


def walked(one: SiteRecord, grid: PatchGrid, starts: Tensor, reach: float = REACH) -> Tensor | None:
    """What starts (B, P, R) become by the walk; None where no keys are known.

    `reach` is the part of what a patch has that comes from its like, in [0, 1). As many images at
    a time as there is room for.
    """
    if one.key is None:
        return None
    channels = one.key.to(one.dtype).transpose(-2, -1).flatten(1, 2)  # (G, H D, Nk)
    keys = grid.drop_prefix(one.keys_at.collect(channels)).transpose(-2, -1)
    keys = F.normalize(keys, dim=-1)
    together = max(1, AT_ONCE // grid.patches**2)
    parts = zip(keys.split(together), starts.split(together), strict=True)
    return torch.cat([_walk(mine, own, reach) for mine, own in parts])


def _walk(keys: Tensor, starts: Tensor, reach: float) -> Tensor:
    """The solution r (B, P, R) of r = (1 - reach) starts + reach T r, T the mean over like patches.

    By conjugate gradients: the system is symmetric and positive once each row is taken times its
    number of neighbours, and things are few, so that some ten steps are enough. Each column stops
    where it is solved, so that none depends on what it is solved beside. Of the P x P pairs one
    byte each is kept.
    """
    images, patches = keys.shape[:2]
    rows = max(1, AT_ONCE // (images * patches))
    other = keys.transpose(1, 2)
    alike = [part @ other > ALIKE for part in keys.split(rows, dim=1)]

    def of_neighbours(values: Tensor) -> Tensor:
        like = torch.cat([part.to(values.dtype) @ values for part in alike], dim=1)
        return (1 - APART) * like + APART * _total(values)

    tiny = torch.finfo(starts.dtype).tiny
    degree = of_neighbours(torch.ones_like(starts[..., :1]))
    wanted = (1 - reach) * degree * starts
    found = starts
    left = wanted - (degree * found - reach * of_neighbours(found))
    enough = _total(wanted * wanted / degree) * (EXACT * torch.finfo(starts.dtype).eps) ** 2
    along = left / degree
    size = _total(left * along)
    for _ in range(patches):
        going = size > enough
        if not bool(going.any()):
            break
        ahead = degree * along - reach * of_neighbours(along)
        step = going * size / _total(along * ahead).clamp(min=tiny)
        found = found + step * along
        left = left - step * ahead
        before, size = size, _total(left * left / degree)
        along = left / degree + size / before.clamp(min=tiny) * along
    return found


def _total(values: Tensor) -> Tensor:
    """Sums over the patches of (B, P, R): (B, 1, R)."""
    return values.sum(dim=1, keepdim=True)
