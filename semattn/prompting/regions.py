"""A part of the picture that a person points at: box, polygon, points or a drawn mask.

All are in pixels of the picture that the model gets. `coverage` says how much of each patch lies
in it. `grow` says what is meant: "from", all of the thing that lies there, as of a click;
"within", the thing inside, as of a box about it; None, what was drawn. What a thing is the keys of
the model tell (`semattn.affinity`).
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

RADIUS = 0.08  # of a point, in the longer side of the picture
FARTHEST = 1_000_000  # pixels; what is farther off can no longer be drawn
FINE = 4  # borders are drawn on so many times the pixels, and averaged


Grow: TypeAlias = Literal["from", "within"] | None


@dataclass(frozen=True)
class Box:
    """The pixels from (left, top) to (right, bottom), both included."""

    left: float
    top: float
    right: float
    bottom: float
    grow: Grow = "within"


@dataclass(frozen=True)
class Polygon:
    """What lies inside the corners ((x, y), …)."""

    corners: Sequence[tuple[float, float]]
    grow: Grow = None


@dataclass(frozen=True)
class Points:
    """Discs about points ((x, y), …); `radius` in pixels, None is 8 % of the longer side."""

    xy: Sequence[tuple[float, float]]
    radius: float | None = None
    grow: Grow = "from"


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask (H, W): floats from 0 to 1, the share of each pixel that is inside, or an object mask.

    An object mask is an array of bool or integers, or a PIL image, in any encoding that
    `semattn.images.read_mask` reads; its pixels are inside or not.
    """

    inside: Any
    grow: Grow = None


Region: TypeAlias = Box | Polygon | Points | Mask


def coverage(region: Region, grid: PatchGrid) -> Tensor:
    """How much of each patch lies in a region: (P,) in [0, 1].

    Raises
    ------
    ValueError
        For a region without area, outside the picture, or to be grown in an unknown way.
    ShapeError
        For a mask of another size than the picture.

    Examples
    --------
    >>> grid = PatchGrid((1, 2), (16, 32), (16, 16))
    >>> coverage(Box(16, 0, 23, 15), grid).tolist()
    [0.0, 0.5]
    """
    if region.grow not in (None, "from", "within"):
        raise ValueError(
            f"region: expected to grow from, within or None, got {region.grow!r} — None is as drawn"
        )
    drawn = draw(region, grid.image_size)
    share = grid.pool(torch.from_numpy(drawn)[None])[0]
    if not bool(share.any()):
        height, width = grid.image_size
        inside = f"the picture of {width}x{height} pixels"
        if grid.is_partial:
            rows, columns = grid.seen_part
            inside = (
                f"x {columns.start} to {columns.stop - 1} and y {rows.start} to {rows.stop - 1}, "
                f"which is all that the model sees of {inside}"
            )
        raise ValueError(
            f"region: expected one inside {inside}, got {_said(region)} — "
            "x counts to the right and y down, from 0"
        )
    return share


def _check(region: Box | Polygon | Points) -> None:
    """Raise unless a region is made of finite numbers, two for a point."""
    if isinstance(region, Box):
        pairs: Any = [(region.left, region.top), (region.right, region.bottom)]
    else:
        pairs = region.corners if isinstance(region, Polygon) else region.xy
    for pair in pairs:
        if not isinstance(pair, (tuple, list, np.ndarray)) or len(pair) != 2:
            raise TypeError(f"region: expected points (x, y), got {type(pair).__name__}")
        for one in pair:
            check_number("region", one, -FARTHEST, FARTHEST)
    if isinstance(region, Points) and region.radius is not None:
        check_number("radius", region.radius, most=FARTHEST)


def draw(region: Region, size: tuple[int, int]) -> np.ndarray:
    """The region as (H, W), float32 in [0, 1], of a picture of `size` (H, W)."""
    if isinstance(region, Mask):
        return _mask(region.inside, size)
    _check(region)
    height, width = size
    page = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(page)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x + 0.5) * FINE - 0.5, (y + 0.5) * FINE - 0.5

    if isinstance(region, Box):
        left, top, right, bottom = region.left, region.top, region.right, region.bottom
        if left > right or top > bottom:
            raise ValueError(
                f"region: expected left <= right and top <= bottom, got {_said(region)} — "
                "give left, top, right, bottom"
            )
        edges = [round(edge * FINE) for edge in (left, top, right + 1, bottom + 1)]
        if edges[2] > 0 and edges[3] > 0:
            pen.rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), fill=255)
    elif isinstance(region, Polygon):
        if len(region.corners) < 3:
            raise ValueError(f"region: expected three corners or more, got {_said(region)}")
        pen.polygon([at(*corner) for corner in region.corners], fill=255)
    else:
        radius = RADIUS * max(size) if region.radius is None else region.radius
        if not region.xy or not radius > 0:
            raise ValueError(f"region: expected points and a radius above 0, got {_said(region)}")
        for point in region.xy:
            x, y = at(*point)
            reach = radius * FINE
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=255)
    fine = np.asarray(page, dtype=np.float32) / 255
    return fine.reshape(height, FINE, width, FINE).mean(axis=(1, 3))


def _mask(inside: Any, size: tuple[int, int]) -> np.ndarray:
    if not isinstance(inside, Image.Image):
        inside = np.asarray(inside)
        if inside.dtype.kind == "f":
            return _shares(inside.astype(np.float32), size)
        if np.isin(inside, (0, 1)).all():
            inside = inside.astype(bool)
    found = read_mask(inside)
    _check_mask_size(found.inside.shape, size)
    if not found.is_plain:
        warnings.warn(f"region: of the mask, {found.reading}", stacklevel=2)
    return found.inside.astype(np.float32)


def _shares(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Floats as they are: how much of each pixel is inside."""
    _check_mask_size(values.shape, size)
    if not bool(np.isfinite(values).all()) or values.min() < 0 or values.max() > 1:
        raise ValueError(
            "region: expected a mask of floats from 0 to 1, got others — divide by the greatest "
            "value, or pass integers"
        )
    return values


def _check_mask_size(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    if shape != size:
        raise ShapeError(
            f"region: expected a mask of {size[0]}x{size[1]}, got {shape} — resize it to "
            "the model's input"
        )


def _said(region: Region) -> str:
    return "a blank mask" if isinstance(region, Mask) else str(region)
