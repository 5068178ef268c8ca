"""Creation of figures and the settings that every figure is drawn with.

Figures are drawn on the Agg canvas, without pyplot, with matplotlib's default settings: a
matplotlibrc, a style and `MPLBACKEND` have no effect on them. The settings of the caller are
restored afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..utils.library_imports import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib's settings are global: only one thread at a time may change them.
_LOCK = threading.RLock()
_nested = threading.local()


@contextmanager
def default_settings() -> Iterator[None]:
    """Use matplotlib's default settings within the context; restore the settings of the caller."""
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
        figure = DefaultFigure(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
    return figure
