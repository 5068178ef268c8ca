"""Panels of a figure: their layout, captions, patch borders, keypoints and concentration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import ACCENT, DENSITY, INK, MUTED, apply_palette, new_figure
from .overlay import CEILING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..explain import Explanation
    from ..grid import PatchGrid
    from ..keypoints import Keypoints


_Box = tuple[float, float, float, float]

LABEL_LETTER = 0.052  # inches, approximate width of a letter of a label of a colour scale
# Inches: outer margin, gap between panels, height of headline, caption and colour scale.
MARGIN, GAP, HEAD, CAPTION, BAR = 0.25, 0.16, 0.68, 0.40, 0.085


@dataclass(frozen=True)
class Frame:
    """Layout of panels in rows and columns; outside in inches, inside in pixels of the image.

    Parameters
    ----------
    image_size : (H, W) of the image that every panel shows, pixels
    rows, columns : number of rows and columns of panels
    panel : width of a panel, inches; its height follows from the image
    foot : height of the area below the panels, inches
    """

    image_size: tuple[int, int]
    columns: int
    rows: int = 1
    panel: float = 3.1
    foot: float = 0.50

    @property
    def tall(self) -> float:
        """Height of a panel."""
        return self.panel * self.image_size[0] / self.image_size[1]

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of the figure."""
        across = 2 * MARGIN + self.columns * self.panel + (self.columns - 1) * GAP
        up = self.top(self.rows - 1) + self.tall + self.foot
        return across, up

    def left(self, column: int) -> float:
        """Left edge of a panel."""
        return MARGIN + column * (self.panel + GAP)

    def top(self, row: int) -> float:
        """Upper edge of a panel, from the upper edge of the figure."""
        return HEAD + CAPTION + row * (CAPTION + self.tall + GAP)

    def box(self, left: float, below: float, width: float, height: float) -> _Box:
        """Convert inches from the upper left corner to the figure fractions of matplotlib."""
        across, up = self.inches
        return left / across, 1 - (below + height) / up, width / across, height / up

    def empty(self) -> Figure:
        """Return an empty figure of this size."""
        return new_figure(*self.inches)

    def axes(self, figure: Figure, row: int, column: int) -> Axes:
        """Add the panel of a row and column to the figure; `show` draws in it."""
        axes = figure.add_axes(self.box(self.left(column), self.top(row), self.panel, self.tall))
        axes.set_axis_off()
        return axes

    def show(self, axes: Axes, picture: NDArray[Any]) -> None:
        """Show a picture of any resolution on a panel whose coordinates are the image's pixels."""
        height, width = self.image_size
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(picture, extent=extent, aspect="auto")
        axes.set(xlim=extent[:2], ylim=extent[2:])

    def inscribe(self, figure: Figure, row: int, column: int, picture: NDArray[Any]) -> Axes:
        """Show a picture of any shape in a panel, at the upper left, in pixels of the picture."""
        height, width = picture.shape[:2]
        scale = min(self.panel / width, self.tall / height)
        axes = figure.add_axes(
            self.box(self.left(column), self.top(row), scale * width, scale * height)
        )
        axes.set_axis_off()
        axes.imshow(picture, extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="auto")
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
        return axes

    def line(self, figure: Figure, x: float, below: float, text: str, **style: Any) -> Any:
        """Write one line of text at a position in inches from the left and from the top."""
        across, up = self.inches
        defaults: dict[str, Any] = {"ha": "left", "size": 7.5, "color": MUTED, "parse_math": False}
        return figure.text(x / across, 1 - below / up, text, **defaults | style)

    def headline(self, figure: Figure, headline: str, subtitle: str) -> None:
        """Write the headline and a line below it."""
        self.line(figure, MARGIN, 0.40, headline, size=15, weight="bold", color=INK)
        self.line(figure, MARGIN, 0.60, subtitle, size=8)

    def caption(
        self, figure: Figure, position: tuple[int, int], title: str, detail: str, colour: str = INK
    ) -> None:
        """Write two lines above the panel at (row, column)."""
        (row, column), size = position, min(9.5, 4.2 * self.panel)
        x, below = self.left(column), self.top(row)
        self.line(figure, x, below - 0.20, title, size=size, weight="bold", color=colour)
        self.line(figure, x, below - 0.065, detail)

    def bar(self, figure: Figure, column: int, palette: str, ends: tuple[str, str]) -> None:
        """Draw a colour scale below the panels of a column, with a label at each end.

        Its place is the middle of the panel, or further left if the label on the right is long.
        """
        low, width = self.inches[1] - self.foot + 0.15, 0.42 * self.panel
        left = 0.5 * (self.panel - width)
        room = [0.07 + LABEL_LETTER * len(label) for label in ends]
        if room[1] > left:
            width = min(width, self.panel - sum(room))
            left = self.panel - room[1] - width
        left += self.left(column)
        axes = figure.add_axes(self.box(left, low, width, BAR))
        axes.imshow(apply_palette(palette, np.linspace(0, 1, 256)[None]), aspect="auto")
        axes.set_axis_off()
        middle = {"va": "center_baseline"}
        self.line(figure, left - 0.07, low + BAR / 2, ends[0], ha="right", **middle)
        self.line(figure, left + width + 0.07, low + BAR / 2, ends[1], **middle)

    def note(self, figure: Figure, number: int, text: str) -> None:
        """Write a line below the panels; the first one is at the height of the colour scales."""
        below = self.inches[1] - self.foot + 0.15 + BAR + 0.17 * number
        self.line(figure, MARGIN, below, text)


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
    """Draw the concentration of each patch; return the multiple of the average at full colour."""
    grid = explanation.grid
    p = explanation.concentration[index].detach().cpu().double()
    lift = grid.fold(grid.patches * p).numpy()
    highest = max(float(np.quantile(lift, CEILING, method="higher")), 1.0)
    value = (lift / highest).clip(0, 1)
    tile = np.concatenate(
        [apply_palette(DENSITY, value), (0.12 + 0.73 * value**0.7)[..., None]], axis=-1
    )
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(tile, extent=patches_extent(grid), interpolation="nearest", aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
    return highest
