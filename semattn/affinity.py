"""Affinity refinement: spread patch values over patches with similar keys.

Patches with similar keys belong to the same object for a layer. A random walk with restart (as in
random-walker segmentation, Grady 2006) moves between patches whose keys are similar. Layers that
compute their own softmax record no keys; maps of these layers are returned without refinement.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import SiteRecord
from .grid import PatchGrid

MIN_COSINE = 0.6  # minimum cosine similarity of the keys of neighbours
REGION_REACH = 0.99  # weight of the neighbours in the walk, for regions
DEFAULT_AFFINITY = 0.9  # weight of the neighbours in the walk, for maps
FLOOR_AFFINITY = 1e-5  # affinity of patches that are not neighbours
MAX_PAIRS = 1 << 22  # patch pairs in memory at a time
CHECK_EVERY = 4  # steps of the solver between two checks of the remaining error
TOLERANCE = 16  # tolerance of the solver, in rounding errors


def refine_by_affinity(site: SiteRecord, grid: PatchGrid, weights: Tensor) -> Tensor:
    """Refine weights (B, P) by affinity, subtract the middle of their range, and clamp at 0."""
    smoothed = random_walk(site, grid, weights[:, :, None])
    if smoothed is None:
        return weights
    least, greatest = smoothed[..., 0].aminmax(dim=1, keepdim=True)
    return (smoothed[..., 0] - (least + greatest) / 2).clamp(min=0)


def confine_to_region(site: SiteRecord, grid: PatchGrid, share: Tensor) -> Tensor:
    """Confine a region to the patches whose keys are similar to its inside.

    Two walks start with equal mass, one inside and one outside the region. Each patch is weighted
    by the fraction of its mass that comes from inside. A region that covers the image is unchanged.

    Parameters
    ----------
    share : (B, P) in [0, 1], the share of each patch in the region
    """
    outside = 1 - share
    if not bool((outside.sum(dim=1) > 0).all()):
        return share
    starts = torch.stack([side / side.sum(dim=1, keepdim=True) for side in (share, outside)], -1)
    mass = random_walk(site, grid, starts)
    if mass is None:
        return share
    inside, outside_mass = mass.unbind(dim=-1)
    return share * inside / (inside + outside_mass)


def random_walk(
    site: SiteRecord, grid: PatchGrid, starts: Tensor, reach: float = REGION_REACH
) -> Tensor | None:
    """Return the random walk with restart from `starts` (B, P, R); None without recorded keys.

    `reach` is the weight of the neighbours, in [0, 1); 1 - `reach` is the restart probability. The
    batch is split so that at most `MAX_PAIRS` patch pairs are in memory.
    """
    if site.key is None:
        return None
    channels = site.key.to(site.dtype).transpose(-2, -1).flatten(1, 2)  # (G, H D, Nk)
    keys = grid.drop_prefix(site.keys_at.to_grid(channels)).transpose(-2, -1)
    keys = F.normalize(keys, dim=-1)
    batch_size = max(1, MAX_PAIRS // grid.patches**2)
    parts = zip(keys.split(batch_size), starts.split(batch_size), strict=True)
    return torch.cat([_walk(key_batch, start_batch, reach) for key_batch, start_batch in parts])


def _walk(keys: Tensor, starts: Tensor, reach: float) -> Tensor:
    """Solve r = (1 - reach) starts + reach T r for r (B, P, R), with T the mean over neighbours.

    Uses conjugate gradients: the system is symmetric positive definite after each row is multiplied
    by its number of neighbours. About ten steps are enough. Each column stops when it is solved, so
    that it does not depend on the other columns. The P x P pairs take one byte each.
    """
    images, patches = keys.shape[:2]
    row_count = max(1, MAX_PAIRS // (images * patches))
    transposed = keys.transpose(1, 2)
    are_neighbours = [part @ transposed > MIN_COSINE for part in keys.split(row_count, dim=1)]

    def multiply_neighbours(values: Tensor) -> Tensor:
        total = torch.cat([part.to(values.dtype) @ values for part in are_neighbours], dim=1)
        return (1 - FLOOR_AFFINITY) * total + FLOOR_AFFINITY * _sum_patches(values)

    tiny = torch.finfo(starts.dtype).tiny
    degree = multiply_neighbours(torch.ones_like(starts[..., :1]))
    right_side = (1 - reach) * degree * starts
    solution = starts
    residual = right_side - (degree * solution - reach * multiply_neighbours(solution))
    relative = (TOLERANCE * torch.finfo(starts.dtype).eps) ** 2
    threshold = _sum_patches(right_side * right_side / degree) * relative
    direction = residual / degree
    residual_norm = _sum_patches(residual * direction)
    for number in range(patches):
        is_active = residual_norm > threshold
        # Reading the device stops it; further steps leave solved columns unchanged.
        if number % CHECK_EVERY == 0 and number and not bool(is_active.any()):
            break
        product = degree * direction - reach * multiply_neighbours(direction)
        step = is_active * residual_norm / _sum_patches(direction * product).clamp(min=tiny)
        solution = solution + step * direction
        residual = residual - step * product
        previous_norm, residual_norm = residual_norm, _sum_patches(residual * residual / degree)
        direction = residual / degree + residual_norm / previous_norm.clamp(min=tiny) * direction
    return solution


def _sum_patches(values: Tensor) -> Tensor:
    """Sum (B, P, R) over the patches: (B, 1, R)."""
    return values.sum(dim=1, keepdim=True)
