"""What a density sees, and the registry that holds them all."""

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
"""Name to a function from a `Scene` to s (B, P), by way of `register_density`."""

Density = TypeVar("Density", bound="Callable[[Scene], Tensor]")


@dataclass(frozen=True, eq=False)
class Scene:
    """A batch of images with their keypoints, on a grid of patches.

    Parameters
    ----------
    pixels : (B, H, W, 3) uint8
    keypoints : those of each image; () for densities that need none
    grid : over the same H and W
    seed : of what is drawn by chance
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
                f"{shape or type(self.pixels).__name__} — one image at least, at the size of the "
                "model's input"
            )
        if self.pixels.dtype != np.uint8:
            raise TypeError(f"pixels: expected uint8, got {self.pixels.dtype} — images.pixels_of")
        check_number("seed", self.seed, least=0, whole=True)
        if len(self.keypoints) not in (0, len(self.pixels)):
            raise ShapeError(
                f"keypoints: expected those of {len(self.pixels)} images, got "
                f"{len(self.keypoints)} — detect them on the same pixels"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def generator(self, image: int) -> np.random.Generator:
        """Chance for one image: the seed and the image's own pixels decide, never its batch."""
        return np.random.default_rng([self.seed, zlib.crc32(self.pixels[image].tobytes())])

    def scatter(self, weight: Callable[[Keypoints], Tensor]) -> Tensor:
        """S (B, P): the sum of `weight`, (K,) of an image's keypoints, over each patch.

        Keypoints that lie in no patch do not count.
        """
        s = np.zeros((len(self), self.grid.patches))
        for row, found in zip(s, self.found(), strict=True):
            patch = self.grid.patch_of(found.xy).numpy()
            inside = patch >= 0
            row += np.bincount(patch[inside], weight(found).numpy()[inside], len(row))
        return torch.from_numpy(s)

    def found(self) -> Sequence[Keypoints]:
        """The keypoints, which the asking density needs."""
        if len(self.keypoints) != len(self):
            raise ValueError(
                f"keypoints: expected those of {len(self)} images, got none — this density needs "
                "keypoints.detect(pixels)"
            )
        return self.keypoints


def register_density(
    name: str, needs: Iterable[str] = (), control: bool = False
) -> Callable[[Density], Density]:
    """Enter a function from a `Scene` to s (B, P), float64 and >= 0, under `name`.

    Parameters
    ----------
    needs : "keypoints", "descriptors": what must be in the scene; kept as ``.needs``
    control : whether it is one to compare with, not a semantic density; kept as ``.control``

    Examples
    --------
    >>> densities["sobel"].control, sorted(densities["distinct"].needs)
    (True, ['descriptors', 'keypoints'])
    """

    def enter(density: Density) -> Density:
        density.needs = frozenset(needs)  # type: ignore[attr-defined]
        density.control = control  # type: ignore[attr-defined]
        return densities.register(name)(density)

    return enter
