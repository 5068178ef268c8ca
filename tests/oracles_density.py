"""The densities again, one keypoint and one patch at a time, in Python's own floats."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from semattn.grid import PatchGrid
from semattn.keypoints import Keypoints


def patch_of(x: float, y: float, grid: PatchGrid) -> int:
    """The patch whose rectangle holds the point, by looking at each."""
    h, w = grid.shape
    for i in range(h):
        for j in range(w):
            top, left = i * grid.cell[0] - 0.5, j * grid.cell[1] - 0.5
            if top <= y < top + grid.cell[0] and left <= x < left + grid.cell[1]:
                return i * w + j
    return -1


def weighted(keypoints: Keypoints, weights: list[float], grid: PatchGrid) -> list[float]:
    s = [0.0] * grid.patches
    for (x, y), weight in zip(keypoints.xy.tolist(), weights, strict=True):
        patch = patch_of(x, y, grid)
        if patch >= 0:
            s[patch] += weight
    return s


def gaussian(keypoints: Keypoints, grid: PatchGrid, fine: int = 24) -> list[float]:
    """The Gaussian summed over a fine lattice of points inside every patch."""
    (h, w), (height, width) = grid.shape, grid.cell
    s = np.zeros(grid.patches)
    for (x, y), size in zip(keypoints.xy.tolist(), keypoints.size.tolist(), strict=True):
        if patch_of(x, y, grid) < 0:
            continue
        mass = np.zeros(grid.patches)
        for i in range(h):
            for j in range(w):
                down = (i + (np.arange(fine) + 0.5) / fine) * height - 0.5 - y
                across = (j + (np.arange(fine) + 0.5) / fine) * width - 0.5 - x
                squared = down[:, None] ** 2 + across**2
                mass[i * w + j] = np.exp(-squared / (2 * size**2)).sum()
        s += mass / mass.sum()
    return s.tolist()


def distinctness(keypoints: Keypoints, rivals: int = 3, near: float = 28.0) -> list[float]:
    """rank^2 of the mean RootSIFT distance to the most similar keypoints that are not near."""
    root = []
    for descriptor in keypoints.descriptor.tolist():
        total = sum(descriptor)
        root.append([math.sqrt(value / total) for value in descriptor])
    place = keypoints.xy.tolist()
    unlike = []
    for k in range(len(keypoints)):
        distances = sorted(
            math.dist(root[k], root[other])
            for other in range(len(keypoints))
            if math.dist(place[k], place[other]) > near
        )[:rivals]
        unlike.append(sum(distances) / len(distances) if distances else math.inf)

    def rank(value: float) -> float:
        below = sum(other < value - 1e-6 for other in unlike)
        tied = sum(other == value or abs(other - value) <= 1e-6 for other in unlike)
        return below + (tied + 1) / 2

    return [(rank(value) / len(unlike)) ** 2 for value in unlike]


def blur(picture: np.ndarray, width: float) -> np.ndarray:
    """Gaussian blur with mirrored borders, by padding far and summing."""
    reach = math.ceil(9 * width)
    padded = np.pad(picture, reach, mode="symmetric")
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * width**2))
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    h, w = picture.shape
    side = 2 * reach + 1
    return np.array(
        [[(padded[i : i + side, j : j + side] * kernel).sum() for j in range(w)] for i in range(h)]
    )


def surround(s: list[float], grid: PatchGrid) -> list[float]:
    picture = np.array(s).reshape(grid.shape)
    return np.maximum(blur(picture, 1) - blur(picture, 4), 0).flatten().tolist()


def sobel(luma: np.ndarray, grid: PatchGrid) -> list[float]:
    """Mean gradient magnitude of each patch, pixel by pixel; borders repeat."""
    height, width = luma.shape
    total, number = [0.0] * grid.patches, [0] * grid.patches
    kernel = [(-1, 1), (0, 2), (1, 1)]
    for y in range(height):
        for x in range(width):

            def at(dy: int, dx: int, y: int = y, x: int = x) -> float:
                return float(luma[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)])

            across = sum(k * (at(d, 1) - at(d, -1)) for d, k in kernel)
            down = sum(k * (at(1, d) - at(-1, d)) for d, k in kernel)
            patch = patch_of(x, y, grid)
            if patch >= 0:
                total[patch] += math.hypot(across, down)
                number[patch] += 1
    return [t / n for t, n in zip(total, number, strict=True)]


def concentration(s: list[float], smoothing: float = 0.1) -> list[float]:
    e = smoothing * sum(s) / len(s)
    total = sum(value + e for value in s)
    return [(value + e) / total for value in s]


def rows(per_image: list[list[float]]) -> Tensor:
    return torch.tensor(per_image, dtype=torch.float64)
