"""Marks on a panel: patch borders, keypoints and their concentration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .overlay import CEILING
from .style import ACCENT, DENSITY, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..explain import Explanation
    from ..grid import PatchGrid
    from ..keypoints import Keypoints


def draw_grid(axes: Axes, grid: PatchGrid, thickness: float = 1.0) -> None:
    """Draw the patch borders; also the outer ones if the grid does not cover the whole image."""
    from matplotlib.collections import LineCollection

    (h, w), cell = grid.shape, grid.cell
    left, right, bottom, top = patches_extent(grid)
    outer = 0 if grid.is_partial else 1
    rows = (top + i * cell[0] for i in range(outer, h + 1 - outer))
    columns = (left + j * cell[1] for j in range(outer, w + 1 - outer))
    across = [[(left, y), (right, y)] for y in rows]
    down = [[(x, top), (x, bottom)] for x in columns]
    lines = LineCollection(
        across + down, colors="white", alpha=0.28, linewidths=0.45 * thickness
    )  # fmt: skip
    axes.add_collection(lines, autolim=False)


def patches_extent(grid: PatchGrid) -> tuple[float, float, float, float]:
    """Return the left, right, bottom and top border of the grid in pixels, for `Axes.imshow`."""
    (h, w), (tall, wide), (y, x) = grid.shape, grid.cell, grid.origin
    return x - 0.5, x + w * wide - 0.5, y + h * tall - 0.5, y - 0.5


def draw_keypoints(axes: Axes, keypoints: Keypoints, thickness: float = 1.0) -> None:
    """Draw a circle of the diameter of each keypoint, the strongest on top."""
    from matplotlib.collections import EllipseCollection

    if not len(keypoints):
        return
    order = keypoints.response.argsort()
    centres, size = keypoints.xy[order].numpy(), keypoints.size[order].numpy()
    for colour, width, alpha in (("black", 1.9, 0.35), (ACCENT, 0.85, 0.95)):
        circles = EllipseCollection(
            size, size, np.zeros_like(size), units="xy", offsets=centres,
            offset_transform=axes.transData, facecolors="none",
            edgecolors=colour, linewidths=width * thickness, alpha=alpha,
        )  # fmt: skip
        axes.add_collection(circles, autolim=False)


def draw_concentration(axes: Axes, explanation: Explanation, index: int) -> float:
    """Draw the concentration of each patch; return the multiple of uniform at full colour."""
    grid = explanation.grid
    p = explanation.concentration[index].detach().cpu().double()
    lift = grid.fold(grid.patches * p).numpy()
    highest = max(float(np.quantile(lift, CEILING, method="higher")), 1.0)
    value = (lift / highest).clip(0, 1)
    tile = np.concatenate([colours(DENSITY, value), (0.12 + 0.73 * value**0.7)[..., None]], axis=-1)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(tile, extent=patches_extent(grid), interpolation="nearest", aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
    return highest
