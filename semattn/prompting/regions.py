"""Regions of an image: box, polygon, points or mask.

Coordinates are pixels of the model's input. `coverage` computes the fraction of each patch inside a
region. `grow` selects the affinity refinement (`semattn.affinity`): "from" extends the region to
similar patches, as for a click on an object; "within" restricts it to the object inside, as for a
bounding box; None uses the region as drawn.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import ShapeError
from ..grid import PatchGrid
from ..images import read_mask
from ..utils.validation import check_number

RADIUS = 0.08  # default radius of a point, as a fraction of the longer side
MAX_COORDINATE = 1_000_000  # pixels; the drawing library fails beyond it
OVERSAMPLING = 4  # regions are drawn at this scale and averaged


Grow: TypeAlias = Literal["from", "within"] | None


@dataclass(frozen=True)
class Box:
    """Box of the pixels from (left, top) to (right, bottom), both included."""

    left: float
    top: float
    right: float
    bottom: float
    grow: Grow = "within"


@dataclass(frozen=True)
class Polygon:
    """Polygon with corners ((x, y), …)."""

    corners: Sequence[tuple[float, float]]
    grow: Grow = None


@dataclass(frozen=True)
class Points:
    """Discs around points ((x, y), …); `radius` in pixels, None is 8 % of the longer side."""

    xy: Sequence[tuple[float, float]]
    radius: float | None = None
    grow: Grow = "from"


@dataclass(frozen=True, eq=False)
class Mask:
    """Mask (H, W): floats in [0, 1], the share of each pixel that is inside, or an object mask.

    An object mask is an array of bool or integers, or a PIL image, in an encoding supported by
    `semattn.images.read_mask`; each pixel is inside or outside.
    """

    inside: Any
    grow: Grow = None


Region: TypeAlias = Box | Polygon | Points | Mask


def coverage(region: Region, grid: PatchGrid) -> Tensor:
    """Compute the fraction of each patch inside a region: (P,) in [0, 1].

    Raises
    ------
    ValueError
        If the region has no area, is outside the picture, or has an unknown `grow`.
    ShapeError
        If a mask has another size than the picture.

    Examples
    --------
    >>> grid = PatchGrid((1, 2), (16, 32), (16, 16))
    >>> coverage(Box(16, 0, 23, 15), grid).tolist()
    [0.0, 0.5]
    """
    if region.grow not in (None, "from", "within"):
        raise ValueError(
            f"region: expected grow 'from', 'within' or None, got {region.grow!r} — None uses the "
            "region as drawn"
        )
    pixels = draw(region, grid.image_size)
    share = grid.pool(torch.from_numpy(pixels)[None])[0]
    if not bool(share.any()):
        height, width = grid.image_size
        inside = f"the picture of {width}x{height} pixels"
        if grid.is_partial:
            rows, columns = grid.visible_part
            inside = (
                f"x {columns.start} to {columns.stop - 1} and y {rows.start} to {rows.stop - 1}, "
                f"the part of {inside} that the model uses"
            )
        raise ValueError(
            f"region: expected one inside {inside}, got {_describe(region)} — "
            "x counts from 0 to the right, y from 0 down"
        )
    return share


def _check_coordinates(region: Box | Polygon | Points) -> None:
    """Raise unless all coordinates are finite numbers, in pairs."""
    if isinstance(region, Box):
        pairs: Any = [(region.left, region.top), (region.right, region.bottom)]
    else:
        pairs = region.corners if isinstance(region, Polygon) else region.xy
    for pair in pairs:
        if not isinstance(pair, (tuple, list, np.ndarray)) or len(pair) != 2:
            raise TypeError(f"region: expected points (x, y), got {type(pair).__name__}")
        for coordinate in pair:
            check_number("region", coordinate, -MAX_COORDINATE, MAX_COORDINATE)
    if isinstance(region, Points) and region.radius is not None:
        check_number("radius", region.radius, maximum=MAX_COORDINATE)


def draw(region: Region, size: tuple[int, int]) -> np.ndarray:
    """Draw the region as (H, W), float32 in [0, 1], for a picture of `size` (H, W)."""
    if isinstance(region, Mask):
        return _draw_mask(region.inside, size)
    _check_coordinates(region)
    height, width = size
    canvas = Image.new("L", (width * OVERSAMPLING, height * OVERSAMPLING))
    drawing = ImageDraw.Draw(canvas)

    def to_canvas(x: float, y: float) -> tuple[float, float]:
        return (x + 0.5) * OVERSAMPLING - 0.5, (y + 0.5) * OVERSAMPLING - 0.5

    if isinstance(region, Box):
        left, top, right, bottom = region.left, region.top, region.right, region.bottom
        if left > right or top > bottom:
            raise ValueError(
                f"region: expected left <= right and top <= bottom, got {_describe(region)} — "
                "pass left, top, right, bottom"
            )
        edges = [round(edge * OVERSAMPLING) for edge in (left, top, right + 1, bottom + 1)]
        if edges[2] > 0 and edges[3] > 0:
            drawing.rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), fill=255)
    elif isinstance(region, Polygon):
        if len(region.corners) < 3:
            raise ValueError(f"region: expected at least three corners, got {_describe(region)}")
        drawing.polygon([to_canvas(*corner) for corner in region.corners], fill=255)
    else:
        radius = RADIUS * max(size) if region.radius is None else region.radius
        if not region.xy or not radius > 0:
            raise ValueError(
                f"region: expected points and a radius above 0, got {_describe(region)}"
            )
        for point in region.xy:
            x, y = to_canvas(*point)
            canvas_radius = radius * OVERSAMPLING
            drawing.ellipse(
                (x - canvas_radius, y - canvas_radius, x + canvas_radius, y + canvas_radius),
                fill=255,
            )
    values = np.asarray(canvas, dtype=np.float32) / 255
    return values.reshape(height, OVERSAMPLING, width, OVERSAMPLING).mean(axis=(1, 3))


def _draw_mask(inside: Any, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(inside, Image.Image):
        inside = np.asarray(inside)
        if inside.dtype.kind == "f":
            return _check_shares(inside.astype(np.float32), size)
        if np.isin(inside, (0, 1)).all():
            inside = inside.astype(bool)
    mask = read_mask(inside)
    _check_mask_size(mask.inside.shape, size)
    if not mask.is_plain:
        warnings.warn(f"region: mask: {mask.reading}", stacklevel=2)
    return mask.inside.astype(np.float32)


def _check_shares(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the values (H, W); raise unless all are in [0, 1]."""
    _check_mask_size(values.shape, size)
    if not bool(np.isfinite(values).all()) or values.min() < 0 or values.max() > 1:
        raise ValueError(
            "region: expected a mask of floats in [0, 1], got values outside — divide by the "
            "maximum, or pass integers"
        )
    return values


def _check_mask_size(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if shape != size:
        raise ShapeError(
            f"region: expected a mask of {size[0]}x{size[1]}, got {shape} — resize it to "
            "the model's input"
        )


def _describe(region: Region) -> str:
    return "a blank mask" if isinstance(region, Mask) else str(region)
