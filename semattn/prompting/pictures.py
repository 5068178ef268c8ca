"""Sources of the bias of a batch: fixed values, a region, or a density of the images.

All classes have the attribute `needs_layer` (true if the bias depends on a layer of the model), the
method `observe`, which receives that layer, and the method `bias`, which is called before the first
steered attention call.
"""

from __future__ import annotations

from collections.abc import Callable
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
from ..utils.registry import unknown_name_message
from . import sources

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
        self.source: sources.PromptSource | None = (
            sources.prompt_sources.get(density) if isinstance(density, str) else None
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
    source = sources.prompt_sources.get(density) if isinstance(density, str) else None
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
    if density not in sources.prompt_sources and density not in densities:
        raise ValueError(
            unknown_name_message("density", density, [*sources.prompt_sources, *densities])
        )
    return density
