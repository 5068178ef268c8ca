"""Where the weights of a prompt come from: a density, or one that the model has a say in.

A density sees the picture alone. What is registered here also sees one layer of the model, in the
middle of the pass that is to be steered: what its attention makes of the density is the
interrelation itself. Nothing is run twice for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..affinity import grown
from ..attention import SiteRecord
from ..density import concentration
from ..grid import PatchGrid
from ..utils.registry import Registry

# From what a layer did, the grid, and p (B, P) of the density beneath, to weights (B, P) >= 0.
See = Callable[[SiteRecord, PatchGrid, Tensor], Tensor]


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
    """Attention of the class tokens that the output is read from, mean over heads.

    Of all patches, where it is read from none.
    """
    asks = grid.add_prefix(torch.ones_like(p))
    if one.class_tokens is not None and bool(one.class_tokens.any()):
        asks = one.class_tokens.to(p).expand(len(p), -1)
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
    return _both(grown(one, grid, received_class(one, grid, p)), class_attention(one, grid, p))


@_register("class-grown", "uniform", control=True)
def classgrown(one: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """`interrelation` without keypoints: the class token's attention alone, grown."""
    attention = class_attention(one, grid, p)
    return _both(grown(one, grid, attention), attention)


def _both(first: Tensor, second: Tensor) -> Tensor:
    return (concentration(first) * concentration(second)).sqrt()
