"""Sources of the bias of a batch: fixed values, a region, a density, or a prompt source.

A density uses only the image. A prompt source also uses one layer of the model, observed during the
steered forward pass. Its attention weighted by the density is the patch interrelation. Each bias
source has `needs_layer`, `observe`, which receives the layer, and `bias`, which is called before
the first steered attention call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..affinity import confine_to_region, refine_by_affinity
from ..attention import SiteRecord
from ..density import Scene, concentration, densities, density_needs
from ..errors import ShapeError
from ..grid import PatchGrid
from ..keypoints import detect_async
from ..utils.registry import Registry, unknown_name_message

# From the record of a layer, the grid and the concentration p (B, P) to weights (B, P) >= 0.
AttentionDensity = Callable[[SiteRecord, PatchGrid, Tensor], Tensor]


@dataclass(frozen=True)
class PromptSource:
    """Function that computes weights from a layer, its density, and whether it is a baseline."""

    compute: AttentionDensity
    density: str
    control: bool = False


prompt_sources: Registry[Any] = Registry("density")


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


ToBias = Callable[[Tensor], Tensor]  # from weights (B, P) to a bias (B, P)


class FixedBias:
    """Bias (1 or B, P) with known values."""

    needs_layer = False

    def __init__(self, bias: Tensor) -> None:
        self.values = bias

    def observe(self, record: SiteRecord) -> None:
        """Ignore the layer."""

    def bias(self) -> Tensor:
        """Return the bias (1 or B, P), nats."""
        return self.values


class RegionPrompt:
    """Bias by the `share` (B, P) of each patch in a region, refined by the affinity of a layer."""

    needs_layer = True

    def __init__(self, share: Tensor, grow: str, grid: PatchGrid, to_bias: ToBias) -> None:
        self.share, self.grid, self.to_bias = share, grid, to_bias
        self.refine = {"from": refine_by_affinity, "within": confine_to_region}[grow]
        self.values: Tensor | None = None

    def observe(self, record: SiteRecord) -> None:
        """Apply affinity refinement to the region of each image."""
        share = self.share.to(record.device, record.dtype)
        with torch.no_grad(), torch.autocast(record.device.type, enabled=False):
            self.values = self.to_bias(self.refine(record, self.grid, share))

    def bias(self) -> Tensor:
        """Return the bias (B, P), nats."""
        assert self.values is not None
        return self.values


class DensityPrompt:
    """Bias by a density of pixels (B, H, W, 3); keypoints are detected while the model runs."""

    def __init__(
        self,
        pixels: np.ndarray,
        grid: PatchGrid,
        density: Any,
        detector: Any,
        seed: int,
        to_bias: ToBias,
    ) -> None:
        self.source: PromptSource | None = (
            prompt_sources.get(density) if isinstance(density, str) else None
        )
        self.needs_layer = self.source is not None
        self.density = densities.resolve(self.source.density if self.source else density)
        self.pixels, self.grid, self.seed, self.to_bias = pixels, grid, seed, to_bias
        needs = prompt_needs(density)
        self.pending_keypoints = (
            detect_async(pixels, detector, descriptors="descriptors" in needs) if needs else None
        )
        self.record: SiteRecord | None = None

    def observe(self, record: SiteRecord) -> None:
        """Store the record of the layer."""
        self.record = record

    def bias(self) -> Tensor:
        """Return the bias (B, P), nats."""
        keypoints = self.pending_keypoints.result() if self.pending_keypoints else []
        s = self.density(Scene(self.pixels, keypoints, self.grid, self.seed))
        if s.shape != (len(self.pixels), self.grid.patches):
            raise ShapeError(
                f"density: expected ({len(self.pixels)}, {self.grid.patches}), got "
                f"{tuple(s.shape)} — one value per image and patch"
            )
        if self.source is not None:
            record, self.record = self.record, None
            assert record is not None
            device = record.device
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                p = concentration(s).to(device, record.dtype)
                s = self.source.compute(record, self.grid, p)
        return self.to_bias(s)


BiasSource = FixedBias | RegionPrompt | DensityPrompt


def prompt_needs(density: Any) -> frozenset[str]:
    """Return the needs of a density or a prompt source: "keypoints", "descriptors"."""
    source = prompt_sources.get(density) if isinstance(density, str) else None
    return density_needs(source.density if source else density)


def check_density(density: Any) -> Any:
    """Return the density unchanged; raise if it is not valid.

    Raises
    ------
    ValueError, TypeError
        If the name is unknown, or the value is not a name, a function or weights.
    """
    if isinstance(density, Tensor) or callable(density):
        return density
    if not isinstance(density, str):
        raise TypeError(
            f"density: expected a name, a function or weights, got {type(density).__name__}"
        )
    if density not in prompt_sources and density not in densities:
        raise ValueError(unknown_name_message("density", density, [*prompt_sources, *densities]))
    return density
