"""Prompt sources: patch weights from a density and the attention of a layer.

A density uses only the image. A prompt source also uses one layer of the model, observed during the
steered forward pass. Its attention weighted by the density is the patch interrelation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..affinity import refine_by_affinity
from ..attention import SiteRecord
from ..density import concentration
from ..grid import PatchGrid
from ..utils.registry import Registry

# From the record of a layer, the grid and the concentration p (B, P) to weights (B, P) >= 0.
AttentionDensity = Callable[[SiteRecord, PatchGrid, Tensor], Tensor]


@dataclass(frozen=True)
class PromptSource:
    """Function that computes weights from a layer, its density, and whether it is a baseline."""

    compute: AttentionDensity
    density: str
    control: bool = False


prompt_sources = Registry("density")


def _register(
    name: str, density: str, control: bool = False
) -> Callable[[AttentionDensity], AttentionDensity]:
    def decorate(attention_density: AttentionDensity) -> AttentionDensity:
        prompt_sources.register(name)(PromptSource(attention_density, density, control))
        return attention_density

    return decorate


@_register("received", "distinct-size-surround")
def received(record: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Compute the attention from keypoint-dense patches: sum_i p_i A_ij, mean over heads."""
    return grid.drop_prefix(record.reduce(grid.add_prefix(p)).mean(dim=1))


@_register("class-attention", "uniform", control=True)
def class_attention(record: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Compute the attention of the class tokens from which the output is read, mean over heads.

    Without such tokens, the attention of all patches.
    """
    query_weights = grid.add_prefix(torch.ones_like(p))
    if record.class_tokens is not None and bool(record.class_tokens.any()):
        query_weights = record.class_tokens.to(p).expand(len(p), -1)
    return grid.drop_prefix(record.reduce(query_weights).mean(dim=1))


@_register("received-class", "distinct-size-surround")
def received_class(record: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Compute the geometric mean of `received` and `class_attention`."""
    return (received(record, grid, p) * class_attention(record, grid, p)).sqrt()


@_register("interrelation", "distinct-size-surround")
def interrelation(record: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Compute the object that dense patches and the class token attend to, weighted by parts.

    Affinity refinement smooths `received_class` over patches with similar keys, so that it is
    uniform over each object, and removes values below the middle of the range. The geometric mean
    with the class token's attention restores the differences between the parts of the object.
    Layers with their own softmax have no recorded keys; there the map is not refined.
    """
    return _geometric_mean(
        refine_by_affinity(record, grid, received_class(record, grid, p)),
        class_attention(record, grid, p),
    )


@_register("class-refined", "uniform", control=True)
def class_refined(record: SiteRecord, grid: PatchGrid, p: Tensor) -> Tensor:
    """Compute `interrelation` without keypoints: the refined attention of the class token."""
    attention = class_attention(record, grid, p)
    return _geometric_mean(refine_by_affinity(record, grid, attention), attention)


def _geometric_mean(first: Tensor, second: Tensor) -> Tensor:
    return (concentration(first) * concentration(second)).sqrt()
