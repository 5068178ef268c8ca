"""Pixels of regions: masks of outlines, the mean picture in a common frame, and inpainting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .matching import compose
from .opencv import import_cv2

INPAINT_RADIUS = 3  # pixels
ERASED_MARGIN = 2  # pixels around a region that are inpainted too, at least
MARGIN_SIDE = 112  # pixels of the longer side of an image for each pixel of the margin
FRAME_SCALE = 2.0  # pixels of a mean picture for each pixel of the frame
MAX_FRAME_SIDE = 600  # pixels


def convex_outline(xy: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Return the convex hull (V, 2) of circles with centres (m, 2) and radii (m,)."""
    cv2 = import_cv2()
    turns = np.arange(8) * np.pi / 4
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    points = (xy[:, None] + radius[:, None, None] * circle).reshape(-1, 2)
    hull: np.ndarray = cv2.convexHull(points.astype(np.float32))[:, 0]
    return hull


def area(outline: np.ndarray) -> float:
    """Return the area of a polygon (V, 2)."""
    x, y = outline.T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def shared_part(first: np.ndarray, second: np.ndarray) -> float:
    """Return the area that two convex polygons (V, 2) share, as a part of the smaller one's.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> shared_part(square, square / 2), shared_part(square, square + [3, 0])
    (1.0, 0.25)
    """
    cv2 = import_cv2()
    shared, _ = cv2.intersectConvexConvex(first.astype(np.float32), second.astype(np.float32))
    return float(shared) / max(min(area(first), area(second)), 1e-6)


def is_inside(xy: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Return which positions (m, 2) are inside a convex polygon (V, 2), as bool (m,).

    Examples
    --------
    >>> square = np.array([[0.0, 0], [4, 0], [4, 4], [0, 4]])
    >>> is_inside(np.array([[1.0, 3.0], [5.0, 3.0]]), square).tolist()
    [True, False]
    """
    edges = np.roll(outline, -1, axis=0) - outline
    offsets = xy[:, None] - outline
    side = edges[:, 0] * offsets[..., 1] - edges[:, 1] * offsets[..., 0]
    inside: np.ndarray = (side >= 0).all(axis=1) | (side <= 0).all(axis=1)
    return inside


def outline_mask(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels (H, W) of bool inside one of the outlines (V, 2)."""
    cv2 = import_cv2()
    mask = np.zeros(size, np.uint8)
    for outline in outlines:
        cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1)
    return mask.astype(bool)


def erased_margin(size: tuple[int, ...]) -> int:
    """Return the pixels around a region of an image (H, W) that are inpainted too.

    Examples
    --------
    >>> erased_margin((224, 224)), erased_margin((90, 120)), erased_margin((896, 1344))
    (2, 2, 12)
    """
    return max(ERASED_MARGIN, round(max(size) / MARGIN_SIDE))


def inpaint(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with the pixels of `mask` (H, W) filled from around them.

    The method of Telea (2004) as in OpenCV. A margin of `erased_margin` pixels is filled too: the
    blurred border of a mark, which grows with the image, would show in the filling.
    """
    if not mask.any():
        return pixels.copy()
    return fill(pixels, widen_mask(mask, erased_margin(mask.shape)))


def fill(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with the pixels of `mask` (H, W) alone filled."""
    cv2 = import_cv2()
    filled: np.ndarray = cv2.inpaint(
        np.ascontiguousarray(pixels), mask.astype(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA
    )
    return filled


def widen_mask(mask: np.ndarray, by: int) -> np.ndarray:
    """Return a mask (H, W) of bool, widened by some pixels."""
    side = np.ones((2 * by + 1, 2 * by + 1), np.uint8)
    widened: np.ndarray = import_cv2().dilate(mask.astype(np.uint8), side) > 0
    return widened


def frame_of(outline: np.ndarray, margin: float = 0.0) -> tuple[np.ndarray, tuple[int, int]]:
    """Return pixels that show a part of the frame of a template, and their width and height.

    The pixels are a transform (2, 3) from them to the frame.

    Parameters
    ----------
    outline : (V, 2), part of the frame that is shown, as its bounding box
    margin : added on each side, in units of the frame

    Examples
    --------
    >>> frame_of(np.array([[10.0, 20.0], [110.0, 60.0]]))[1]
    (200, 80)
    """
    low, high = outline.min(axis=0) - margin, outline.max(axis=0) + margin
    extent = np.maximum(high - low, 1)
    scale = min(FRAME_SCALE, MAX_FRAME_SIDE / float(extent.max()))
    width, height = (max(1, round(float(side) * scale)) for side in extent)
    return np.array([[1 / scale, 0, low[0]], [0, 1 / scale, low[1]]]), (width, height)


def mean_in_frame(
    pictures: Sequence[np.ndarray], transforms: Sequence[np.ndarray], outline: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the mean of pictures in the frame of a template, and each picture in that frame.

    Parameters
    ----------
    pictures : (H, W, 3) uint8 each
    transforms : (2, 3) each, from the frame to the picture
    outline : (V, 2), part of the frame that is shown, as its bounding box
    """
    cv2 = import_cv2()
    to_frame, size = frame_of(outline)
    crops = [
        cv2.warpAffine(
            np.ascontiguousarray(picture), compose(transform, to_frame), size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE,
        )
        for picture, transform in zip(pictures, transforms, strict=True)
    ]  # fmt: skip
    mean = np.mean(crops, axis=0).round().astype(np.uint8)
    return mean, crops
