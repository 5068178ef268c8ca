"""Scale space of SIFT on any device: octaves of blurred images, and the extrema between them.

A batch of images is computed at once. Constants, borders and roundings are those of OpenCV's SIFT
with precise upscaling. Source: Lowe, Distinctive image features from scale-invariant keypoints
(IJCV 2004).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

SIGMA = 1.6  # blur of the first level of an octave, in its pixels
CAMERA_SIGMA = 0.5  # blur that an image is assumed to have
LAYERS = 3  # levels of an octave that are searched
BORDER = 5  # pixels of an octave without extrema at its edge
MAX_STEPS = 5  # of the fit of a position
EDGE_RATIO = 10.0  # greatest ratio of the principal curvatures
LEVELS = 255.0  # of the grey values
CHANNELS = torch.tensor([9798, 19235, 3735], dtype=torch.int32, device="cpu")  # of luma, 2^-15


@dataclass(frozen=True)
class Octave:
    """Blurred images (B, LAYERS + 3, h, w) of one size; pixels are 2^(number - 1) of the image."""

    number: int
    blurred: Tensor

    @property
    def pixel(self) -> float:
        """Length of a pixel of this octave, in pixels of the image."""
        return 2.0 ** (self.number - 1)


@dataclass(frozen=True)
class Extrema:
    """K extrema of an octave.

    Parameters
    ----------
    image, level, row, column : (K,) int64, the nearest element of `Octave.blurred`
    xy : (K, 2), position in pixels of the octave
    scale : (K,), standard deviation of the blur, pixels of the octave
    response : (K,), absolute difference of Gaussians for levels in [0, 1]
    """

    image: Tensor
    level: Tensor
    row: Tensor
    column: Tensor
    xy: Tensor
    scale: Tensor
    response: Tensor


def grey(pixels: Tensor) -> Tensor:
    """Return the luma (B, H, W), whole numbers as float32, of pixels (B, H, W, 3) uint8."""
    weighted = (pixels.int() * CHANNELS.to(pixels.device)).sum(dim=-1)
    return ((weighted + (1 << 14)) >> 15).float()


def octaves(images: Tensor) -> Iterator[Octave]:
    """Yield the octaves of grey images (B, H, W), the finest one first."""
    # Doubling also doubles the blur of the camera.
    base = _blur(_doubled(images), math.sqrt(SIGMA**2 - (2 * CAMERA_SIGMA) ** 2))
    sigmas = [SIGMA * 2 ** (level / LAYERS) for level in range(LAYERS + 3)]
    count = round(math.log2(min(base.shape[1:])) - 2) + 1
    for number in range(count):
        levels = [base]
        for previous, sigma in pairwise(sigmas):
            levels.append(_blur(levels[-1], math.sqrt(sigma**2 - previous**2)))
        yield Octave(number, torch.stack(levels, dim=1))
        base = _halved(levels[LAYERS])


def extrema(octave: Octave, contrast_threshold: float) -> Extrema | None:
    """Return the extrema of the differences between levels; None without any.

    Positions are fitted by a quadratic function. Extrema of low contrast and those on edges are
    left out.
    """
    differences = octave.blurred.diff(dim=1)
    height, width = differences.shape[-2:]
    if min(height, width) <= 2 * BORDER:
        return None
    least = math.floor(0.5 * contrast_threshold / LAYERS * LEVELS)
    inner = (slice(None), slice(1, -1), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    center = differences[inner]
    highest, lowest = (sign * _maxima(sign * differences)[inner] for sign in (1, -1))
    is_extreme = ((center > least) & (center >= highest)) | ((center < -least) & (center <= lowest))
    image, level, row, column = is_extreme.nonzero().unbind(dim=1)
    if not len(image):
        return None
    return _fitted(differences, image, level + 1, row + BORDER, column + BORDER, contrast_threshold)


def _fitted(
    differences: Tensor, image: Tensor, level: Tensor, row: Tensor, column: Tensor, contrast: float
) -> Extrema | None:
    """Move each element to the extremum of the quadratic function through its neighbours."""
    height, width = differences.shape[-2:]
    lowest = torch.tensor([1, BORDER, BORDER], device=image.device)
    highest = torch.tensor([LAYERS, height - BORDER - 1, width - BORDER - 1], device=image.device)
    place = torch.stack([level, row, column], dim=1)
    offset = torch.zeros_like(place, dtype=differences.dtype)
    is_inside = torch.ones_like(image, dtype=torch.bool)
    is_done = ~is_inside
    for _ in range(MAX_STEPS):
        gradient, hessian, _ = _derivatives(differences, image, place)
        step = -_solve(hessian, gradient)
        is_near = (step.abs() < 0.5).all(dim=1)
        offset = torch.where((is_near & ~is_done)[:, None], step, offset)
        is_done |= is_near
        moved = place + torch.where(is_done[:, None], 0.0, step.clamp(-1e6, 1e6)).round().long()
        is_inside &= ((moved >= lowest) & (moved <= highest)).all(dim=1)
        place = torch.where(is_inside[:, None], moved, place)
    gradient, hessian, value = _derivatives(differences, image, place)
    response = (value + 0.5 * (gradient * offset).sum(dim=1)).abs()
    of_plane = hessian[:, 1:, 1:]
    trace = of_plane[:, 0, 0] + of_plane[:, 1, 1]
    determinant = of_plane[:, 0, 0] * of_plane[:, 1, 1] - of_plane[:, 0, 1] ** 2
    is_blob = trace**2 * EDGE_RATIO < (EDGE_RATIO + 1) ** 2 * determinant
    is_strong = response * LAYERS >= contrast
    selected = (is_done & is_inside & is_blob & is_strong).nonzero()[:, 0]
    if not len(selected):
        return None
    image, place, offset, response = (
        image[selected],
        place[selected],
        offset[selected],
        response[selected],
    )
    level, row, column = place.unbind(dim=1)
    exact = place + offset
    scale = SIGMA * torch.exp2(exact[:, 0] / LAYERS)
    return Extrema(image, level, row, column, exact[:, [2, 1]], scale, response)


def _derivatives(differences: Tensor, image: Tensor, place: Tensor) -> tuple[Tensor, ...]:
    """Return gradient (K, 3), Hessian (K, 3, 3) and value (K,) in (level, row, column)."""
    levels, height, width = differences.shape[1:]
    flat = differences.flatten()
    strides = (height * width, width, 1)
    center = image * levels * height * width + sum(
        place[:, axis] * stride for axis, stride in enumerate(strides)
    )

    def at(*shift: int) -> Tensor:
        moved = sum(number * stride for number, stride in zip(shift, strides, strict=True))
        return flat[center + moved] / LEVELS

    def unit(axis: int, sign: int) -> tuple[int, ...]:
        return tuple(sign * (number == axis) for number in range(3))

    value = at(0, 0, 0)
    sides = [(at(*unit(axis, -1)), at(*unit(axis, 1))) for axis in range(3)]
    gradient = torch.stack([(after - before) / 2 for before, after in sides], dim=1)
    rows = [[value] * 3 for _ in range(3)]
    for axis, (before, after) in enumerate(sides):
        rows[axis][axis] = before + after - 2 * value
    for first, second in ((0, 1), (0, 2), (1, 2)):
        corners = [
            at(*(s * (n == first) + t * (n == second) for n in range(3)))
            for s, t in ((1, 1), (-1, -1), (1, -1), (-1, 1))
        ]
        mixed = (corners[0] + corners[1] - corners[2] - corners[3]) / 4
        rows[first][second] = rows[second][first] = mixed
    hessian = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    return gradient, hessian, value


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric systems (K, 3, 3) by Cramer's rule; 0 for a singular one."""
    columns = [
        torch.linalg.cross(matrix[:, (axis + 1) % 3], matrix[:, (axis + 2) % 3])
        for axis in range(3)
    ]
    determinant = (matrix[:, 0] * columns[0]).sum(dim=1, keepdim=True)
    solved = sum(right[:, axis, None] * columns[axis] for axis in range(3))
    return torch.where(determinant == 0, 0.0, solved / determinant)


def _maxima(values: Tensor) -> Tensor:
    """Return the maximum of each element of (B, L, h, w) and its 26 neighbours."""
    return F.max_pool3d(values[:, None], 3, stride=1, padding=1)[:, 0]


def _doubled(images: Tensor) -> Tensor:
    """Return images (B, 2 H, 2 W) whose even pixels are those of the images (B, H, W)."""
    for axis in (1, 2):
        last = images.narrow(axis, images.shape[axis] - 1, 1)
        following = torch.cat([images.narrow(axis, 1, images.shape[axis] - 1), last], dim=axis)
        pairs = torch.stack([images, (images + following) / 2], dim=axis + 1)
        images = pairs.flatten(axis, axis + 1)
    return images


def _halved(images: Tensor) -> Tensor:
    """Return every second pixel of images (B, h, w), fewer than half of an odd number."""
    for axis in (1, 2):
        length = images.shape[axis]
        numbers = torch.arange(length // 2, device=images.device) * length // (length // 2)
        images = images.index_select(axis, numbers)
    return images


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Blur images (B, h, w) by a Gaussian; the border is reflected about the outermost pixels."""
    kernel = _kernel(sigma)
    radius = len(kernel) // 2
    for axis in (2, 1):
        length = images.shape[axis]
        padded = images.index_select(axis, _reflected(length, radius).to(images.device))
        total = padded.narrow(axis, radius, length) * kernel[radius]
        for distance in range(1, radius + 1):
            sides = [padded.narrow(axis, radius + sign * distance, length) for sign in (-1, 1)]
            total = total.add_(sides[0] + sides[1], alpha=kernel[radius + distance])
        images = total
    return images


@lru_cache(maxsize=64)
def _kernel(sigma: float) -> list[float]:
    """Return the weights of a Gaussian, cut off at 4 standard deviations."""
    radius = (round(sigma * 8 + 1) | 1) // 2
    weights = [math.exp(-((x / sigma) ** 2) / 2) for x in range(-radius, radius + 1)]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


@lru_cache(maxsize=256)
def _reflected(length: int, radius: int) -> Tensor:
    """Return the pixel at each position from -radius to length + radius - 1.

    Examples
    --------
    >>> _reflected(3, 2).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    positions = torch.arange(-radius, length + radius, device="cpu").abs()
    if length == 1:
        return torch.zeros_like(positions)
    positions = positions % (2 * length - 2)
    return torch.minimum(positions, 2 * length - 2 - positions)
