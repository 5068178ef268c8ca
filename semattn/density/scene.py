"""`Scene`, the input of a density, and the registry of densities."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints
from semattn.utils.registry import Registry
from semattn.utils.validation import check_number

densities = Registry("density")
"""Mapping of names to functions from a `Scene` to s (B, P); see `register_density`."""

Density = TypeVar("Density", bound="Callable[[Scene], Tensor]")


@dataclass(frozen=True, eq=False)
class Scene:
    """Batch of images with keypoints and a patch grid.

    Parameters
    ----------
    pixels : (B, H, W, 3) uint8
    keypoints : keypoints of each image; () for densities that need none
    grid : patch grid over the same H and W
    seed : seed of random numbers
    """

    pixels: np.ndarray
    keypoints: Sequence[Keypoints]
    grid: PatchGrid
    seed: int = 0

    def __post_init__(self) -> None:
        shape = self.pixels.shape if isinstance(self.pixels, np.ndarray) else ()
        if len(shape) != 4 or shape[1:] != (*self.grid.image_size, 3) or not shape[0]:
            height, width = self.grid.image_size
            raise ShapeError(
                f"pixels: expected (B, {height}, {width}, 3) for this grid, got "
                f"{shape or type(self.pixels).__name__} — at least one image, at the size of the "
                "model's input"
            )
        if self.pixels.dtype != np.uint8:
            raise TypeError(
                f"pixels: expected uint8, got {self.pixels.dtype} — use images.pixels_of"
            )
        check_number("seed", self.seed, minimum=0, integer=True)
        if len(self.keypoints) not in (0, len(self.pixels)):
            raise ShapeError(
                f"keypoints: expected keypoints of {len(self.pixels)} images, got "
                f"{len(self.keypoints)} — detect them on the same pixels"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def generator(self, image: int) -> np.random.Generator:
        """Return the random generator of an image; it depends on the seed and the pixels only."""
        return np.random.default_rng([self.seed, zlib.crc32(self.pixels[image].tobytes())])

    def scatter(self, weight: Callable[[Keypoints], Tensor]) -> Tensor:
        """Compute s (B, P), the sum of `weight` (K,) over the keypoints of each patch.

        Keypoints outside all patches are ignored.
        """
        s = np.zeros((len(self), self.grid.patches))
        for row, keypoints in zip(s, self.require_keypoints(), strict=True):
            patches = self.grid.patch_of(keypoints.xy).numpy()
            inside = patches >= 0
            row += np.bincount(patches[inside], weight(keypoints).numpy()[inside], len(row))
        return torch.from_numpy(s)

    def require_keypoints(self) -> Sequence[Keypoints]:
        """Return the keypoints; raise if the scene has none."""
        if len(self.keypoints) != len(self):
            raise ValueError(
                f"keypoints: expected keypoints of {len(self)} images, got none — pass "
                "keypoints.detect(pixels)"
            )
        return self.keypoints


def register_density(
    name: str, needs: Iterable[str] = (), control: bool = False
) -> Callable[[Density], Density]:
    """Register a function from a `Scene` to s (B, P), float64 and >= 0, under `name`.

    Parameters
    ----------
    needs : required parts of the scene, "keypoints" or "descriptors"; stored as ``.needs``
    control : true for a baseline, false for a semantic density; stored as ``.control``

    Examples
    --------
    >>> densities["sobel"].control, sorted(densities["distinct"].needs)
    (True, ['descriptors', 'keypoints'])
    """

    def decorate(density: Density) -> Density:
        density.needs = frozenset(needs)  # type: ignore[attr-defined]
        density.control = control  # type: ignore[attr-defined]
        return densities.register(name)(density)

    return decorate


def density_needs(density: str | Callable[[Scene], Tensor]) -> frozenset[str]:
    """Return the parts of the scene that a density needs: "keypoints", "descriptors".

    A function that is not registered needs keypoints, unless its attribute ``needs`` lists others.

    Examples
    --------
    >>> density_needs("uniform"), density_needs(lambda scene: scene)
    (frozenset(), frozenset({'keypoints'}))
    """
    return frozenset(getattr(densities.resolve(density), "needs", ("keypoints",)))
