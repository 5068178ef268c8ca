"""New figures, and the settings that every figure is drawn with.

Figures are drawn by the Agg canvas, without pyplot, with matplotlib's own default settings: a
matplotlibrc, a style and `MPLBACKEND` change nothing in them. The settings of the caller are
afterwards as they were.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..utils.matplotlib_import import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib's settings are global: one thread changes them at a time.
_LOCK = threading.RLock()
_nested = threading.local()


@contextmanager
def default_settings() -> Iterator[None]:
    """Draw with matplotlib's defaults, and leave the settings of the caller as they were."""
    import_matplotlib()
    import matplotlib as mpl

    with _LOCK:
        if getattr(_nested, "inside", False):
            yield
            return
        _nested.inside = True
        try:
            with mpl.rc_context():
                mpl.rcdefaults()
                yield
        finally:
            _nested.inside = False


def new_figure(width: float, height: float) -> Figure:
    """Return an empty white figure on an Agg canvas.

    Parameters
    ----------
    width, height : inches
    """
    import_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from .default_figure import DefaultFigure

    with default_settings():
        drawn = DefaultFigure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(drawn)
    return drawn
