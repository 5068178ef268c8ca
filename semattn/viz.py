"""Pictures of an explanation: an overlay, and a figure that shows what led to it.

The only module that draws. It uses matplotlib's figures without pyplot, so it changes no global
state, opens no window and works on any machine. It knows an `Explanation` and nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .explain import Explanation

Picture = NDArray[np.uint8]
_Box = tuple[float, float, float, float]

# Perceptually uniform; two of them, so that neither passes for the other.
MAP, DENSITY = "inferno", "viridis"
INK, MUTED, ACCENT = "#17181c", "#6c7078", "#ffc53d"
OPACITY = 0.88  # of the highest value: the photograph stays visible under it
FLOOR, CEILING = 0.20, 0.995  # quantiles of the map that are drawn as nothing and as full

# The figure, in inches.
PANEL, GAP, MARGIN, HEAD, FOOT, BAR = 3.1, 0.16, 0.25, 1.08, 0.50, 0.085


def overlay(
    explanation: Explanation, index: int = 0, *, backdrop: Picture | None = None
) -> Picture:
    """The picture with its map laid over: uint8 (H, W, 3).

    Colour and opacity both follow the value, so that what does not matter stays a photograph.
    Values run from the map's 20 % quantile to its 99.5 % quantile and are clipped there: one
    extreme pixel does not darken the rest. A constant map draws nothing.

    Parameters
    ----------
    explanation : what an explainer's `explain` returned
    index : which image of the batch
    backdrop : (H', W', 3) uint8, the same view in another resolution, drawn instead of the
        pixels that the model saw; the map is resampled to it

    Raises
    ------
    ShapeError
        For an index that the batch does not have, or a backdrop that is no picture.
    """
    picture = _picture(explanation, index, backdrop)
    value = _scaled(_resampled(explanation.heat[index], picture.shape[:2]))
    alpha = OPACITY * value[..., None] ** 0.7
    mixed = (1 - alpha) * _faded(picture, 0.55, 0.9) + alpha * _colours(MAP, value)
    return (mixed.clip(0, 1) * 255).round().astype(np.uint8)


def figure(explanation: Explanation, index: int = 0, *, backdrop: Picture | None = None) -> Figure:
    """What the map was made of, side by side: image, keypoints, concentration, map.

    The four panels share one frame, so that a patch is at the same place in each. Circles have
    the diameters of the keypoints; the concentration is in multiples of an even one (P p).

    Parameters
    ----------
    explanation, index, backdrop : as for `overlay`

    Raises
    ------
    ShapeError
        As `overlay` does.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = _picture(explanation, index, backdrop)
    frame = _Frame.of(explanation)
    drawn = Figure(figsize=frame.inches, dpi=200, facecolor="white")
    FigureCanvasAgg(drawn)
    panels = [frame.panel(drawn, column) for column in range(4)]
    words = _words(explanation, index)

    frame.show(panels[0], picture / 255)
    frame.show(panels[1], _faded(picture, 0.0, 0.62))
    _draw_grid(panels[1], explanation)
    _draw_keypoints(panels[1], explanation, index)
    frame.show(panels[2], _faded(picture, 0.0, 0.62))
    highest = _draw_concentration(panels[2], explanation, index)
    _draw_grid(panels[2], explanation)
    frame.show(panels[3], overlay(explanation, index, backdrop=picture) / 255)

    frame.bar(drawn, 2, DENSITY, ("0", f"{highest:.1f} × even"))
    frame.bar(drawn, 3, MAP, ("low", "high"))
    _write(drawn, frame, words)
    return drawn


@dataclass(frozen=True)
class _Frame:
    """Where things are in the figure: inches outside the panels, pixels of the image inside."""

    height: int
    width: int
    tall: float

    @classmethod
    def of(cls, explanation: Explanation) -> _Frame:
        height, width = explanation.grid.image_size
        return cls(height, width, PANEL * height / width)

    @property
    def inches(self) -> tuple[float, float]:
        return 2 * MARGIN + 4 * PANEL + 3 * GAP, HEAD + self.tall + FOOT

    def left(self, column: int) -> float:
        """Left edge of a panel."""
        return MARGIN + column * (PANEL + GAP)

    def box(self, left: float, bottom: float, width: float, height: float) -> _Box:
        """Inches as the fractions that matplotlib wants."""
        across, up = self.inches
        return left / across, bottom / up, width / across, height / up

    def panel(self, drawn: Figure, column: int) -> Axes:
        axes = drawn.add_axes(self.box(self.left(column), FOOT, PANEL, self.tall))
        axes.set_axis_off()
        return axes

    def show(self, axes: Axes, picture: NDArray[np.floating[Any]]) -> None:
        extent = (-0.5, self.width - 0.5, self.height - 0.5, -0.5)
        axes.imshow(picture, extent=extent, aspect="auto")
        axes.set(xlim=extent[:2], ylim=extent[2:])

    def bar(self, drawn: Figure, column: int, palette: str, ends: tuple[str, str]) -> None:
        """A colour scale under a panel, with a word at each end."""
        low, width = FOOT - 0.15 - BAR, 0.42 * PANEL
        left = self.left(column) + 0.5 * (PANEL - width)
        axes = drawn.add_axes(self.box(left, low, width, BAR))
        axes.imshow(_colours(palette, np.linspace(0, 1, 256)[None]), aspect="auto")
        axes.set_axis_off()
        across, up = self.inches
        for x, word, align in (
            (left - 0.07, ends[0], "right"),
            (left + width + 0.07, ends[1], "left"),
        ):
            drawn.text(
                x / across, (low + BAR / 2) / up, word,
                ha=align, va="center_baseline", size=7.5, color=MUTED,
            )  # fmt: skip


def _picture(explanation: Explanation, index: int, backdrop: Picture | None) -> Picture:
    """The pixels to draw on, after a look at what was asked for."""
    count = len(explanation.heat)
    if not -count <= index < count:
        raise ShapeError(f"index: expected one of {count} images, got {index} — count from 0")
    if backdrop is None:
        return explanation.images.pixels[index]
    if backdrop.ndim != 3 or backdrop.shape[2] != 3 or backdrop.dtype != np.uint8:
        raise ShapeError(
            f"backdrop: expected (H, W, 3) of uint8, got {backdrop.shape} of {backdrop.dtype} — "
            "give the picture that a person sees"
        )
    return backdrop


def _resampled(heat: torch.Tensor, size: tuple[int, ...]) -> NDArray[np.float64]:
    """A map (H, W) at another size."""
    values = heat.detach().to("cpu", torch.float64)
    if tuple(values.shape) != tuple(size):
        values = F.interpolate(values[None, None], size=size[:2], mode="bilinear")[0, 0]
    return values.numpy()


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values between 0 at the floor's quantile and 1 at the ceiling's; all 0 if they agree."""
    low, high = np.quantile(values, [FLOOR, CEILING])
    if high - low <= 1e-12 * max(abs(high), 1e-300):
        return np.zeros_like(values)
    return ((values - low) / (high - low)).clip(0, 1)


def _colours(palette: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in [0, 1] as (…, 3); the palette's lowest tenth, nearly black, is left out."""
    from matplotlib import colormaps

    return colormaps[palette](0.1 + 0.9 * values)[..., :3]


def _faded(picture: Picture, colour: float, light: float) -> NDArray[np.float64]:
    """The photograph stepping back: this much of its colour, this much of its light."""
    shown = picture / 255
    grey = (shown @ np.array([0.299, 0.587, 0.114]))[..., None]
    return light * (colour * shown + (1 - colour) * grey)


def _draw_grid(axes: Axes, explanation: Explanation) -> None:
    """The borders of the patches."""
    from matplotlib.collections import LineCollection

    (h, w), cell = explanation.grid.shape, explanation.grid.cell
    bottom, right = h * cell[0] - 0.5, w * cell[1] - 0.5
    across = [[(-0.5, i * cell[0] - 0.5), (right, i * cell[0] - 0.5)] for i in range(1, h)]
    down = [[(j * cell[1] - 0.5, -0.5), (j * cell[1] - 0.5, bottom)] for j in range(1, w)]
    axes.add_collection(
        LineCollection(across + down, colors="white", alpha=0.28, linewidths=0.45), autolim=False
    )


def _draw_keypoints(axes: Axes, explanation: Explanation, index: int) -> None:
    """A circle for each keypoint, the strongest on top."""
    from matplotlib.collections import EllipseCollection

    keypoints = explanation.keypoints[index]
    if not len(keypoints):
        return
    order = keypoints.response.argsort()
    centres, size = keypoints.xy[order].numpy(), keypoints.size[order].numpy()
    for colour, width, alpha in (("black", 1.9, 0.35), (ACCENT, 0.85, 0.95)):
        circles = EllipseCollection(
            size, size, np.zeros_like(size), units="xy", offsets=centres,
            offset_transform=axes.transData, facecolors="none",
            edgecolors=colour, linewidths=width, alpha=alpha,
        )  # fmt: skip
        axes.add_collection(circles, autolim=False)


def _draw_concentration(axes: Axes, explanation: Explanation, index: int) -> float:
    """The concentration of each patch; returns the multiple of an even one that is full colour."""
    grid = explanation.grid
    p = explanation.concentration[index].detach().to("cpu", torch.float64)
    lift = grid.fold(grid.patches * p).numpy()
    highest = max(float(np.quantile(lift, CEILING, method="higher")), 1.0)
    value = (lift / highest).clip(0, 1)
    tile = np.concatenate(
        [_colours(DENSITY, value), (0.12 + 0.73 * value**0.7)[..., None]], axis=-1
    )
    extent = (
        -0.5, grid.shape[1] * grid.cell[1] - 0.5, grid.shape[0] * grid.cell[0] - 0.5, -0.5,
    )  # fmt: skip
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(tile, extent=extent, interpolation="nearest", aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
    return highest


@dataclass(frozen=True)
class _Words:
    """What is written: a headline, a line under it, two lines over each panel, a note below."""

    headline: str
    beside: str
    panels: tuple[tuple[str, str], ...]
    note: str


def _words(explanation: Explanation, index: int) -> _Words:
    settings = explanation.manifest.get("parameters", {})
    keypoints, grid = explanation.keypoints[index], explanation.grid
    if explanation.target is None:
        explained, headline, beside = "the feature direction", "Features", "model without classes"
    else:
        chance = explanation.logits[index].detach().to("cpu", torch.float64).softmax(-1)
        target, best = int(explanation.target[index]), int(chance.argmax())
        explained = explanation.label(target)
        headline = f"{shorten(explained, 60, placeholder='…')}  {_percent(chance[target])}"
        beside = "the predicted class"
        if target != best:
            beside = f"asked for; predicted is {explanation.label(best)} {_percent(chance[best])}"
    model = explanation.manifest.get("architecture") or explanation.manifest.get("model")
    made = [explanation.manifest.get("method"), model]
    count = f"{len(keypoints)} keypoint{'' if len(keypoints) == 1 else 's'}"
    return _Words(
        headline=headline,
        beside="  ·  ".join([beside, *map(str, filter(None, made))]),
        panels=(
            ("Image", f"{grid.image_size[1]} × {grid.image_size[0]} pixels, as the model sees it"),
            ("Keypoints", f"{count} on {grid.shape[1]} × {grid.shape[0]} patches"),
            ("Semantic concentration", f"share of each patch ({settings.get('density', 'count')})"),
            ("Attribution", f"evidence for {shorten(explained, 40, placeholder='…')}"),
        ),
        note=shorten("  ·  ".join(explanation.notes), 130, placeholder=" …"),
    )


def _percent(chance: torch.Tensor) -> str:
    percent = 100 * float(chance)
    return f"{percent:.1f} %" if percent >= 0.05 else "< 0.1 %"


def _write(drawn: Figure, frame: _Frame, words: _Words) -> None:
    """Put the words where they belong."""
    across, up = frame.inches

    def line(x: float, below: float, text: str, **style: Any) -> Any:
        return drawn.text(x / across, 1 - below / up, text, ha="left", parse_math=False, **style)

    line(MARGIN, 0.40, words.headline, size=15, weight="bold", color=INK)
    line(MARGIN, 0.60, words.beside, size=8, color=MUTED)
    for column, (title, detail) in enumerate(words.panels):
        line(frame.left(column), HEAD - 0.20, title, size=9.5, weight="bold", color=INK)
        line(frame.left(column), HEAD - 0.065, detail, size=7.5, color=MUTED)
    line(MARGIN, up - FOOT + 0.15 + BAR, words.note, size=7.5, color=MUTED)
