"""Where things are in a figure: a grid of panels with words over each, in inches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .canvas import new_figure
from .style import INK, MUTED, colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Box = tuple[float, float, float, float]

# Inches: around everything, between panels, of the headline, of the words over a row, of a scale.
MARGIN, GAP, HEAD, CAPTION, BAR = 0.25, 0.16, 0.68, 0.40, 0.085


@dataclass(frozen=True)
class Frame:
    """Panels in rows and columns under a headline: inches outside them, the image's pixels inside.

    Parameters
    ----------
    image_size : (H, W) of the image that every panel shows, pixels
    rows, columns : of panels
    panel : width of one, inches; its height follows from the image
    foot : height of what stands below the panels, inches
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
        """Inches from the upper left corner as the fractions that matplotlib wants."""
        across, up = self.inches
        return left / across, 1 - (below + height) / up, width / across, height / up

    def empty(self) -> Figure:
        """A figure of this size with nothing in it."""
        return new_figure(*self.inches)

    def axes(self, drawn: Figure, row: int, column: int) -> Axes:
        """The panel at a place, for `show` to draw in."""
        made = drawn.add_axes(self.box(self.left(column), self.top(row), self.panel, self.tall))
        made.set_axis_off()
        return made

    def show(self, axes: Axes, picture: NDArray[Any]) -> None:
        """A picture of any resolution on a panel, which gets the image's pixels as coordinates."""
        height, width = self.image_size
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(picture, extent=extent, aspect="auto")
        axes.set(xlim=extent[:2], ylim=extent[2:])

    def line(self, drawn: Figure, x: float, below: float, text: str, **style: Any) -> Any:
        """One line of words, at inches from the left and from the top."""
        across, up = self.inches
        usual: dict[str, Any] = {"ha": "left", "size": 7.5, "color": MUTED, "parse_math": False}
        return drawn.text(x / across, 1 - below / up, text, **usual | style)

    def headline(self, drawn: Figure, headline: str, beside: str) -> None:
        """What the figure is of, and a line under it."""
        self.line(drawn, MARGIN, 0.40, headline, size=15, weight="bold", color=INK)
        self.line(drawn, MARGIN, 0.60, beside, size=8)

    def caption(
        self, drawn: Figure, place: tuple[int, int], title: str, detail: str, colour: str = INK
    ) -> None:
        """Two lines over the panel at (row, column)."""
        (row, column), size = place, min(9.5, 4.2 * self.panel)
        x, below = self.left(column), self.top(row)
        self.line(drawn, x, below - 0.20, title, size=size, weight="bold", color=colour)
        self.line(drawn, x, below - 0.065, detail)

    def bar(self, drawn: Figure, column: int, palette: str, ends: tuple[str, str]) -> None:
        """A colour scale under the panels of a column, with a word at each end."""
        low, width = self.inches[1] - self.foot + 0.15, 0.42 * self.panel
        left = self.left(column) + 0.5 * (self.panel - width)
        axes = drawn.add_axes(self.box(left, low, width, BAR))
        axes.imshow(colours(palette, np.linspace(0, 1, 256)[None]), aspect="auto")
        axes.set_axis_off()
        middle = {"va": "center_baseline"}
        self.line(drawn, left - 0.07, low + BAR / 2, ends[0], ha="right", **middle)
        self.line(drawn, left + width + 0.07, low + BAR / 2, ends[1], **middle)

    def note(self, drawn: Figure, number: int, text: str) -> None:
        """A line below the panels, the first of them beside the scales."""
        below = self.inches[1] - self.foot + 0.15 + BAR + 0.17 * number
        self.line(drawn, MARGIN, below, text)
