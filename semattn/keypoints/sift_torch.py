"""SIFT for batches on any device: keypoints of OpenCV's SIFT, computed by PyTorch.

The extrema are those of `scale_space`. Here they get orientations and descriptors, from windows of
the gradient of the blurred image. Sums run in a fixed order, so that results do not change from run
to run. Source: Lowe, Distinctive image features from scale-invariant keypoints (IJCV 2004).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.devices import AUTO, best_device
from ..utils.validation import check_number
from .detectors import detectors, keypoints_of_table
from .scale_space import LAYERS, SIGMA, Extrema, Octave, extrema, grey, octaves

DIRECTIONS = 36  # bins of the histogram of a keypoint's orientation
ORIENTATION_SIGMA, ORIENTATION_RADIUS = 1.5, 4.5  # of its window, in scales of the keypoint
PEAK = 0.8  # smallest peak that gives an orientation, as a fraction of the highest one
CELLS, CELL_DIRECTIONS = 4, 8  # rows and columns of a descriptor, and directions of each cell
CELL_WIDTH = 3.0  # of a descriptor, in scales of the keypoint
MAX_VALUE = 0.2  # greatest value of a normalised descriptor
INTEGER_SCALE = 512  # of the descriptors of OpenCV, which are whole numbers up to 255
MAX_SCALE = SIGMA * 2 ** ((LAYERS + 0.5) / LAYERS)  # of a keypoint, in pixels of its octave
CHUNK = 1 << 24  # values in memory at a time
_COLUMNS = 6  # x, y, response, size, angle, image


@detectors.register("sift-torch")
def sift_torch(
    pixels: np.ndarray,
    *,
    contrast_threshold: float = 0.01,
    duplicates: str = "drop",
    descriptors: bool = False,
    device: str | torch.device = AUTO,
) -> Any:
    """Detect SIFT keypoints of an image, or of a batch at once, with PyTorch.

    Parameters
    ----------
    pixels : (H, W, 3) or (B, H, W, 3) uint8
    contrast_threshold, duplicates, descriptors : as for `sift`
    device : where they are computed; "auto" is CUDA, else MPS, else the CPU

    Returns
    -------
    Keypoints or list[Keypoints]
        A list for a batch.

    Notes
    -----
    At least 98 % of the keypoints of `sift` are among them within half a pixel and 5 % of the size,
    and the reverse. On a CPU `sift` is faster.
    """
    check_number("contrast_threshold", contrast_threshold, minimum=0)
    batch = pixels if pixels.ndim == 4 else pixels[None]
    device = best_device() if device == AUTO else device
    images = grey(torch.from_numpy(np.ascontiguousarray(batch)).to(device))
    tables = [_octave_table(octave, contrast_threshold, descriptors) for octave in octaves(images)]
    table = torch.cat([table for table in tables if table is not None] or [_no_rows(descriptors)])
    rows = table.cpu().numpy()
    image_numbers = rows[:, _COLUMNS - 1].astype(np.int64)
    keypoints = [
        keypoints_of_table(
            of_image[:, : _COLUMNS - 1], of_image[:, _COLUMNS:] if descriptors else None,
            batch.shape[1:], "sift-torch", duplicates,
        )
        for of_image in (rows[image_numbers == number] for number in range(len(batch)))
    ]  # fmt: skip
    return keypoints if pixels.ndim == 4 else keypoints[0]


sift_torch.takes_batches = True  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Gradient:
    """Gradient of the searched levels (B, LAYERS, h, w): magnitude, and direction in turns."""

    magnitude: Tensor
    direction: Tensor

    @classmethod
    def of(cls, octave: Octave) -> _Gradient:
        """Return the central differences; 0 at the outermost pixels. The y axis points upwards."""
        levels = octave.blurred[:, 1 : LAYERS + 1]
        across = torch.zeros_like(levels)
        upward = torch.zeros_like(levels)
        inner = (..., slice(1, -1), slice(1, -1))
        across[inner] = levels[..., 1:-1, 2:] - levels[..., 1:-1, :-2]
        upward[inner] = levels[..., :-2, 1:-1] - levels[..., 2:, 1:-1]
        return cls(torch.hypot(across, upward), torch.atan2(upward, across) / (2 * math.pi) % 1)

    def window(self, points: Extrema, rows: slice, down: Tensor, right: Tensor) -> list[Tensor]:
        """Return magnitude and direction (K, S) at the shifts (S,) from the elements of `rows`."""
        levels, height, width = self.magnitude.shape[1:]
        row = points.row[rows, None] + down
        column = points.column[rows, None] + right
        is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        plane = points.image[rows] * levels + points.level[rows] - 1
        place = (plane[:, None] * height + row.clamp(0, height - 1)) * width
        place = place + column.clamp(0, width - 1)
        return [self.magnitude.flatten()[place] * is_inside, self.direction.flatten()[place]]


def _octave_table(octave: Octave, contrast: float, with_descriptors: bool) -> Tensor | None:
    """Return a row for each keypoint and orientation of an octave: `_COLUMNS`, descriptor."""
    points = extrema(octave, contrast)
    if points is None:
        return None
    gradient = _Gradient.of(octave)
    which, turns = _orientations(points, gradient)
    points = Extrema(**{name: value[which] for name, value in vars(points).items()})
    columns = [
        points.xy * octave.pixel, points.response[:, None],
        2 * octave.pixel * points.scale[:, None], 360 * turns[:, None], points.image[:, None],
    ]  # fmt: skip
    if with_descriptors:
        columns.append(_descriptors(points, turns, gradient))
    return torch.cat([column.float() for column in columns], dim=1)


def _no_rows(with_descriptors: bool) -> Tensor:
    width = CELLS**2 * CELL_DIRECTIONS if with_descriptors else 0
    return torch.zeros(0, _COLUMNS + width, device="cpu")


def _orientations(points: Extrema, gradient: _Gradient) -> tuple[Tensor, Tensor]:
    """Return the number of the point of each orientation, and the orientation in turns.

    Turns are from the x axis towards the y axis, as the angles of OpenCV.
    """
    down, right, distance = _shifts(math.ceil(ORIENTATION_RADIUS * MAX_SCALE), points.row.device)

    def histogram(rows: slice) -> Tensor:
        scale = points.scale[rows, None]
        magnitude, direction = gradient.window(points, rows, down, right)
        weight = magnitude * torch.exp(-(distance**2) / (2 * (ORIENTATION_SIGMA * scale) ** 2))
        is_near = torch.maximum(down.abs(), right.abs()) <= (ORIENTATION_RADIUS * scale).round()
        numbers = (direction * DIRECTIONS).round().long() % DIRECTIONS
        weight = weight * is_near
        return torch.stack([(weight * (numbers == n)).sum(dim=1) for n in range(DIRECTIONS)], dim=1)

    raw = _in_chunks(histogram, len(points.row), 4 * len(down))
    near, far = (raw.roll(shift, 1) + raw.roll(-shift, 1) for shift in (1, 2))
    smooth = (far + 4 * near + 6 * raw) / 16
    before, after = smooth.roll(1, 1), smooth.roll(-1, 1)
    is_peak = (smooth > before) & (smooth > after)
    is_peak &= smooth >= PEAK * smooth.amax(dim=1, keepdim=True)
    which, number = is_peak.nonzero().unbind(dim=1)
    left, middle, right_side = (side[which, number] for side in (before, smooth, after))
    exact = number + 0.5 * (left - right_side) / (left - 2 * middle + right_side)
    return which, -exact / DIRECTIONS % 1


def _descriptors(points: Extrema, turns: Tensor, gradient: _Gradient) -> Tensor:
    """Return the descriptors (K, 128): whole numbers from 0 to 255."""
    radius = math.ceil(CELL_WIDTH * MAX_SCALE * math.sqrt(2) * (CELLS + 1) / 2)
    down, right, _ = _shifts(radius, turns.device)
    cells = torch.arange(CELLS, device=turns.device)
    directions = torch.arange(CELL_DIRECTIONS, device=turns.device)

    def histogram(rows: slice) -> Tensor:
        width = CELL_WIDTH * points.scale[rows, None]
        cosine, sine = ((f(-2 * math.pi * turns[rows]))[:, None] for f in (torch.cos, torch.sin))
        across = (right * cosine - down * sine) / width
        along = (right * sine + down * cosine) / width
        magnitude, direction = gradient.window(points, rows, down, right)
        reach = (width * math.sqrt(2) * (CELLS + 1) / 2).round()
        is_near = torch.maximum(down.abs(), right.abs()) <= reach
        weight = magnitude * is_near * torch.exp(-(across**2 + along**2) * 2 / CELLS**2)
        middle = (CELLS - 1) / 2
        in_row, in_column = (
            _triangle(side[:, None] + middle - cells[:, None]) for side in (along, across)
        )
        turned = (direction + turns[rows, None]) % 1 * CELL_DIRECTIONS
        apart = (turned[..., None] - directions).abs()
        in_direction = _triangle(torch.minimum(apart, CELL_DIRECTIONS - apart))
        in_cell = (in_row[:, :, None] * in_column[:, None]).flatten(1, 2)  # (K, 16, S)
        return (in_cell @ (weight[..., None] * in_direction)).flatten(1)

    raw = _in_chunks(histogram, len(turns), (CELLS**2 + 2 * CELL_DIRECTIONS) * len(down))
    clipped = torch.minimum(raw, MAX_VALUE * torch.linalg.vector_norm(raw, dim=1, keepdim=True))
    norm = torch.linalg.vector_norm(clipped, dim=1, keepdim=True)
    scaled = clipped * INTEGER_SCALE / norm.clamp(min=torch.finfo(raw.dtype).eps)
    return scaled.round().clamp(max=255)


def _shifts(radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shifts down, right, and their length, of a square window: (S,) each."""
    side = torch.arange(-radius, radius + 1, device=device)
    down, right = (part.flatten() for part in torch.meshgrid(side, side, indexing="ij"))
    return down, right, torch.hypot(down.float(), right.float())


def _triangle(distance: Tensor) -> Tensor:
    """Return the weight of linear interpolation at a distance from a bin."""
    return (1 - distance.abs()).clamp(min=0)


def _in_chunks(function: Callable[[slice], Tensor], count: int, values: int) -> Tensor:
    """Return the results for all rows, computed with at most `CHUNK` of `values` per row."""
    step = max(1, CHUNK // values)
    return torch.cat([function(slice(start, start + step)) for start in range(0, count, step)])
