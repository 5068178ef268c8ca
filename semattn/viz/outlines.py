"""Outlines of patches and of regions on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .panels import patches_extent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..grid import PatchGrid
    from ..spurious import Region

OUTLINE = (("black", 2.2), ("#ffc53d", 1.2))  # colours and widths of the lines, the lowest first


def draw_outline(axes: Axes, inside: np.ndarray, grid: PatchGrid) -> None:
    """Draw a line around the true patches of a boolean (h, w), in pixels of the image."""
    from matplotlib.collections import LineCollection

    left, _, _, top = patches_extent(grid)
    down, across = grid.cell
    wide = np.pad(inside, 1)

    def corner(row: int, column: int) -> tuple[float, float]:
        return left + column * across, top + row * down

    lines = [[corner(i, j), corner(i, j + 1)]
             for i, j in np.argwhere(wide[:-1, 1:-1] != wide[1:, 1:-1])]  # fmt: skip
    lines += [[corner(i, j), corner(i + 1, j)]
              for i, j in np.argwhere(wide[1:-1, :-1] != wide[1:-1, 1:])]  # fmt: skip
    for colour, thick in OUTLINE:
        axes.add_collection(
            LineCollection(lines, colors=colour, linewidths=thick, capstyle="round"), autolim=False
        )


def draw_regions(axes: Axes, regions: Sequence[Region]) -> None:
    """Draw the outlines of regions, in pixels of the image."""
    from matplotlib.collections import PolyCollection

    outlines = [np.asarray(region.outline) for region in regions]
    for colour, thick in OUTLINE:
        lines = PolyCollection(
            outlines, closed=True, facecolors="none", edgecolors=colour, linewidths=thick
        )
        axes.add_collection(lines, autolim=False)
