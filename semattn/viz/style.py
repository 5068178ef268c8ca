"""Colours of the figures and fading of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..utils.library_imports import import_matplotlib

# Perceptually uniform; two palettes, so that map and density are not confused.
MAP, DENSITY = "inferno", "viridis"
INK, MUTED, ACCENT, EMPTY = "#17181c", "#6c7078", "#ffc53d", "#eceef1"


def colours(palette: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map values in [0, 1] to colours (…, 3), without the nearly black tenth of the palette."""
    import_matplotlib()
    from matplotlib import colormaps

    return colormaps[palette](0.1 + 0.9 * values)[..., :3]


def faded(picture: NDArray[np.uint8], colour: float, light: float) -> NDArray[np.float64]:
    """Return a picture with its saturation scaled by `colour` and its brightness by `light`."""
    rgb: NDArray[Any] = picture / 255
    grey = (rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    return light * (colour * rgb + (1 - colour) * grey)
