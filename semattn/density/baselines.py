"""Control densities: baselines without keypoints, or with displaced keypoints.

An effect of `count` that a control reproduces is not an effect of keypoints. Edges are the
strongest control. `shifted` has the same autocorrelation as `count` and is therefore the null
model. Random numbers depend on the seed of the scene and on the image, not on the batch.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semattn.images import luma

from .keypoint_densities import count
from .scene import Scene, register_density

CANNY_SIGMA_PIXELS = (
    1.0  # pixels; the thresholds are scikit-image's: .1 and .2 of the brightness range
)
CENTER_WIDTH = 0.25  # standard deviation of `center`, in sides of the grid


@register_density("uniform", control=True)
def uniform(scene: Scene) -> Tensor:
    """Return 1 for each patch."""
    return torch.ones(len(scene), scene.grid.patches, dtype=torch.float64, device="cpu")


@register_density("random", control=True)
def random(scene: Scene) -> Tensor:
    """Return uniform random numbers in [0, 1)."""
    draws = [scene.generator(index).random(scene.grid.patches) for index in range(len(scene))]
    return torch.from_numpy(np.stack(draws))


@register_density("center", control=True)
def center(scene: Scene) -> Tensor:
    """Return a Gaussian at the grid center with a standard deviation of a quarter of a side."""
    h, w = scene.grid.shape
    row = (torch.arange(h, dtype=torch.float64, device="cpu") + 0.5) / h - 0.5
    column = (torch.arange(w, dtype=torch.float64, device="cpu") + 0.5) / w - 0.5
    squared_distance = (row[:, None] ** 2 + column**2) / CENTER_WIDTH**2
    return torch.exp(-squared_distance / 2).flatten().repeat(len(scene), 1)


@register_density("sobel", control=True)
def sobel(scene: Scene) -> Tensor:
    """Compute the mean magnitude of the Sobel gradient of the luminance."""
    padded = np.pad(luma(scene.pixels), ((0, 0), (1, 1), (1, 1)), mode="edge")
    gradient_x = padded[:, :, 2:] - padded[:, :, :-2]
    gradient_y = padded[:, 2:] - padded[:, :-2]
    gradient_x = gradient_x[:, :-2] + 2 * gradient_x[:, 1:-1] + gradient_x[:, 2:]
    gradient_y = gradient_y[:, :, :-2] + 2 * gradient_y[:, :, 1:-1] + gradient_y[:, :, 2:]
    return scene.grid.pool(torch.from_numpy(np.hypot(gradient_x, gradient_y)))


@register_density("canny", control=True)
def canny(scene: Scene) -> Tensor:
    """Compute the fraction of Canny edge pixels in each patch, from the luminance."""
    from skimage import feature

    edges = [feature.canny(grey, sigma=CANNY_SIGMA_PIXELS) for grey in luma(scene.pixels)]
    return scene.grid.pool(torch.from_numpy(np.stack(edges)).to(torch.float64))


@register_density("shifted", needs=("keypoints",), control=True)
def shifted(scene: Scene) -> Tensor:
    """Compute the count, shifted cyclically by a quarter to three quarters of the grid."""
    h, w = scene.grid.shape
    if h == w == 1:
        raise ValueError(
            "shifted: expected a grid of more than one patch, got 1x1 — use another control"
        )
    rows = []
    for index, density_map in enumerate(scene.grid.fold(count(scene))):
        rng = scene.generator(index)
        ranges = ((min(-(-n // 4), 3 * n // 4), 3 * n // 4) for n in (h, w))  # a side of 1: (0, 0)
        rows_down, columns_right = (int(rng.integers(*limits, endpoint=True)) for limits in ranges)
        rows.append(density_map.roll((rows_down, columns_right), (0, 1)).flatten())
    return torch.stack(rows)


@register_density("permuted", needs=("keypoints",), control=True)
def permuted(scene: Scene) -> Tensor:
    """Compute the count, with the patches of each image permuted."""
    order = [scene.generator(index).permutation(scene.grid.patches) for index in range(len(scene))]
    return count(scene).gather(1, torch.from_numpy(np.stack(order)))


@register_density("other", needs=("keypoints",), control=True)
def other(scene: Scene) -> Tensor:
    """Compute the count of the previous image of the batch."""
    if len(scene) < 2:
        raise ValueError(
            "other: expected a batch of at least two images, got one — "
            "pass more images, or use the control 'shifted'"
        )
    return count(scene).roll(1, 0)
