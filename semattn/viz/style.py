"""The colours of every picture, and how a photograph steps back behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..utils.matplotlib_import import import_matplotlib

# Perceptually uniform; two of them, so that neither passes for the other.
MAP, DENSITY = "inferno", "viridis"
INK, MUTED, ACCENT, EMPTY = "#17181c", "#6c7078", "#ffc53d", "#eceef1"


def colours(palette: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in [0, 1] as (…, 3); the palette's lowest tenth, nearly black, is left out."""
    import_matplotlib()
    from matplotlib import colormaps

    return colormaps[palette](0.1 + 0.9 * values)[..., :3]


def faded(picture: NDArray[np.uint8], colour: float, light: float) -> NDArray[np.float64]:
    """The photograph stepping back: this much of its colour, this much of its light."""
    shown: NDArray[Any] = picture / 255
    grey = (shown @ np.array([0.299, 0.587, 0.114]))[..., None]
    return light * (colour * shown + (1 - colour) * grey)
