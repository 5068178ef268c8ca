"""Controls: densities that know nothing of keypoints, or have them in the wrong place.

What `count` does and these do too is not the keypoints' doing. Edges decide most; `shifted` has the
same autocorrelation as `count`, and so is the fair null. What is drawn by chance depends on the
scene's seed and on the image itself, never on its batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semattn.images import luma

from .keypoint_densities import count
from .scene import Scene, register_density

CANNY_SIGMA = 1.0  # pixels; the thresholds are scikit-image's: .1 and .2 of the brightness range
CENTER_WIDTH = 0.25  # standard deviation of `center`, in sides of the grid


@register_density("uniform", control=True)
def uniform(scene: Scene) -> Tensor:
    """The same everywhere."""
    return torch.ones(len(scene), scene.grid.patches, dtype=torch.float64, device="cpu")


@register_density("random", control=True)
def random(scene: Scene) -> Tensor:
    """A number in [0, 1) by chance."""
    draws = [scene.generator(i).random(scene.grid.patches) for i in range(len(scene))]
    return torch.from_numpy(np.stack(draws))


@register_density("center", control=True)
def center(scene: Scene) -> Tensor:
    """A Gaussian about the middle of the grid, a quarter of its sides wide."""
    h, w = scene.grid.shape
    row = (torch.arange(h, dtype=torch.float64, device="cpu") + 0.5) / h - 0.5
    column = (torch.arange(w, dtype=torch.float64, device="cpu") + 0.5) / w - 0.5
    away = (row[:, None] ** 2 + column**2) / CENTER_WIDTH**2
    return torch.exp(-away / 2).flatten().repeat(len(scene), 1)


@register_density("sobel", control=True)
def sobel(scene: Scene) -> Tensor:
    """Mean magnitude of the Sobel gradient of the brightness."""
    padded = np.pad(luma(scene.pixels), ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = padded[:, :, 2:] - padded[:, :, :-2]
    down = padded[:, 2:] - padded[:, :-2]
    across = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    down = down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]
    return scene.grid.pool(torch.from_numpy(np.hypot(across, down)))


@register_density("canny", control=True)
def canny(scene: Scene) -> Tensor:
    """Fraction of each patch's pixels that are Canny edges of the brightness."""
    from skimage import feature

    edges = [feature.canny(grey, sigma=CANNY_SIGMA) for grey in luma(scene.pixels)]
    return scene.grid.pool(torch.from_numpy(np.stack(edges)).to(torch.float64))


@register_density("shifted", needs=("keypoints",), control=True)
def shifted(scene: Scene) -> Tensor:
    """The count, moved round the torus by about half the grid (a quarter to three quarters)."""
    h, w = scene.grid.shape
    if h == w == 1:
        raise ValueError("shifted: expected a grid of more than one patch, got 1x1 — use another")
    rows = []
    for i, picture in enumerate(scene.grid.fold(count(scene))):
        draw = scene.generator(i)
        ranges = ((min(-(-n // 4), 3 * n // 4), 3 * n // 4) for n in (h, w))  # a side of 1: (0, 0)
        down, across = (int(draw.integers(*limits, endpoint=True)) for limits in ranges)
        rows.append(picture.roll((down, across), (0, 1)).flatten())
    return torch.stack(rows)


@register_density("permuted", needs=("keypoints",), control=True)
def permuted(scene: Scene) -> Tensor:
    """The count with its patches shuffled."""
    order = [scene.generator(i).permutation(scene.grid.patches) for i in range(len(scene))]
    return count(scene).gather(1, torch.from_numpy(np.stack(order)))


@register_density("other", needs=("keypoints",), control=True)
def other(scene: Scene) -> Tensor:
    """The count of another image: that of the one before in the batch."""
    if len(scene) < 2:
        raise ValueError(
            "other: expected a batch of two images at least, got one — "
            "give more images, or take the control 'shifted'"
        )
    return count(scene).roll(1, 0)
