"""Where the weights of a prompt come from: a density, or one that the model has a say in.

A density sees the picture alone. What is registered here also sees one layer of the model, in the
middle of the pass that is to be steered: what its attention makes of the density is the
interrelation itself. Nothing is run twice for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import SiteRecord
from ..density import concentration
from ..grid import PatchGrid
from ..registry import Registry

# From what a layer did, the grid, and p (B, P) of the density beneath, to weights (B, P) >= 0.
See = Callable[[SiteRecord, PatchGrid, Tensor], Tensor]

ALIKE = 0.6  # cosine of the keys of two patches that count as one thing
REACH = 0.99  # of what a patch has, the part that is its neighbours'
APART = 1e-5  # how much even patches that are not alike have in common


@dataclass(frozen=True)
class Source:
    """What makes weights of a layer, the density that it starts from, whether it is a control."""

    see: See
    density: str
    control: bool = False


prompts = Registry("density")


def _register(name: str, density: str, control: bool = False) -> Callable[[See], See]:
    def enter(see: See) -> See:
        prompts.register(name)(Source(see, density, control))
        return see

    return enter


@_register("received", "distinct-size-surround")
def received(one: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Attention that patches receive from keypoint-dense ones: sum_i p_i A_ij, mean over heads."""
    return grid.drop_prefix(one.reduce(grid.add_prefix(p)).mean(dim=1))


@_register("class-attention", "uniform", control=True)
def class_attention(one: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Attention of the class token alone, mean over heads; of all patches, where there is none."""
    known = one.queries_at is not None and one.queries_at.own.prefix
    asks = torch.zeros(len(p), grid.tokens, dtype=p.dtype, device=p.device)
    asks[:, 0 if known else slice(grid.prefix, None)] = 1
    return grid.drop_prefix(one.reduce(asks).mean(dim=1))


@_register("received-class", "distinct-size-surround")
def received_class(one: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Where dense patches and the class token agree: the geometric mean of what both give."""
    return (received(one, grid, p) * class_attention(one, grid, p)).sqrt()


@_register("interrelation", "distinct-size-surround")
def interrelation(one: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """The thing that dense patches and the class token agree on, and what counts in it.

    What `received_class` finds is grown: patches whose keys are alike share what they have, until
    it is even over each thing, and what lies below the middle of the range is cut off. The
    geometric mean with the class token's attention tells the parts of the thing apart again. A
    layer that makes its own softmax keeps no keys: there nothing is grown.
    """
    return _both(_grown(one, grid, received_class(one, grid, p)), class_attention(one, grid, p))


@_register("class-grown", "uniform", control=True)
def class_grown(one: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """`interrelation` without keypoints: the class token's attention alone, grown."""
    attention = class_attention(one, grid, p)
    return _both(_grown(one, grid, attention), attention)


def _both(first: Tensor, second: Tensor) -> Tensor:
    return (concentration(first) * concentration(second)).sqrt()


def _grown(one: SiteRecord, grid: PatchGrid, weights: Tensor) -> Tensor:
    """Weights (B, P) after a random walk with restart over patches of like keys."""
    if one.key is None:
        return weights
    channels = one.key.to(one.dtype).transpose(-2, -1).flatten(1, 2)  # (G, H D, Nk)
    keys = grid.drop_prefix(one.keys_at.collect(channels)).transpose(-2, -1)
    keys = F.normalize(keys, dim=-1)
    even = torch.stack([_walk(mine, own) for mine, own in zip(keys, weights, strict=True)])
    least, greatest = even.aminmax(dim=1, keepdim=True)
    return (even - (least + greatest) / 2).clamp(min=0)


def _walk(keys: Tensor, weights: Tensor) -> Tensor:
    """The solution r of r = (1 - REACH) weights + REACH T r, T the mean over like patches."""
    near = torch.where(keys @ keys.T > ALIKE, 1.0, APART).to(weights)
    degree = near.sum(dim=1)
    system = torch.diag(degree) - REACH * near  # symmetric, and positive
    factor = torch.linalg.cholesky(system)
    return torch.cholesky_solve(((1 - REACH) * degree * weights)[:, None], factor)[:, 0]
