"""The bias of one batch, whoever says it: weights that are given, a region, or a density of the
pictures.

All have the same three parts: whether they want to see a layer of the model (`looks`), `see`, and
`bias`, which is asked for when the first call is to be steered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..affinity import grown, within
from ..attention import SiteRecord
from ..density import Scene, concentration, densities
from ..errors import ShapeError
from ..grid import PatchGrid
from ..keypoints import start
from ..utils.registry import choices
from . import sources

Nats = Callable[[Tensor], Tensor]  # from weights (B, P) to a bias (B, P)


class Given:
    """A bias (1 or B, P) that is known."""

    looks = False

    def __init__(self, bias: Tensor) -> None:
        self.made = bias

    def see(self, one: SiteRecord) -> None:
        """Nothing of the model is needed."""

    def bias(self) -> Tensor:
        """(1 or B, P), nats."""
        return self.made


class OfRegion:
    """The bias by `share` (B, P) of each patch in a region, grown by what a layer sees."""

    looks = True

    def __init__(self, share: Tensor, grow: str, grid: PatchGrid, nats: Nats) -> None:
        self.share, self.grid, self.nats = share, grid, nats
        self.grow = {"from": grown, "within": within}[grow]
        self.made: Tensor | None = None

    def see(self, one: SiteRecord) -> None:
        """Grow the region of each image."""
        share = self.share.to(one.device, one.dtype)
        with torch.no_grad(), torch.autocast(one.device.type, enabled=False):
            self.made = self.nats(self.grow(one, self.grid, share))

    def bias(self) -> Tensor:
        """(B, P), nats."""
        assert self.made is not None
        return self.made


class OfPictures:
    """The bias by a density of pixels (B, H, W, 3); keypoints are found while the model runs."""

    def __init__(
        self,
        pixels: np.ndarray,
        grid: PatchGrid,
        density: Any,
        detector: Any,
        seed: int,
        nats: Nats,
    ) -> None:
        self.source: sources.Source | None = (
            sources.prompts.get(density) if isinstance(density, str) else None
        )
        self.looks = self.source is not None
        self.density = densities.ensure(self.source.density if self.source else density)
        self.pixels, self.grid, self.seed, self.nats = pixels, grid, seed, nats
        needs = needs_of(density)
        self.found = start(pixels, detector, descriptors="descriptors" in needs) if needs else None
        self.seen: SiteRecord | None = None

    def see(self, one: SiteRecord) -> None:
        """Keep what a layer did."""
        self.seen = one

    def bias(self) -> Tensor:
        """(B, P), nats."""
        keypoints = self.found.result() if self.found else []
        s = self.density(Scene(self.pixels, keypoints, self.grid, self.seed))
        if s.shape != (len(self.pixels), self.grid.patches):
            raise ShapeError(
                f"density: expected ({len(self.pixels)}, {self.grid.patches}), got "
                f"{tuple(s.shape)} — one value a patch of each image"
            )
        if self.source is not None:
            one, self.seen = self.seen, None
            assert one is not None
            device = one.device
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                p = concentration(s).to(device, one.dtype)
                s = self.source.see(one, self.grid, p)
        return self.nats(s)


Source = Given | OfRegion | OfPictures


def needs_of(density: Any) -> frozenset[str]:
    """Return what a density, or the density of a prompt, needs: "keypoints", "descriptors"."""
    source = sources.prompts.get(density) if isinstance(density, str) else None
    of_scene = densities.ensure(source.density if source else density)
    return frozenset(getattr(of_scene, "needs", ("keypoints",)))


def read_density(density: Any) -> Any:
    """The density as it was given, if it is known.

    Raises
    ------
    ValueError, TypeError
        For an unknown name, or for what is neither name, function nor weights.
    """
    if isinstance(density, Tensor) or callable(density):
        return density
    if not isinstance(density, str):
        raise TypeError(
            f"density: expected a name, a function or weights, got {type(density).__name__}"
        )
    if density not in sources.prompts and density not in densities:
        raise ValueError(choices("density", density, [*sources.prompts, *densities]))
    return density
