"""Figure class; it is imported only where a figure is created, because it imports matplotlib."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from .canvas import default_settings
from .letters import use_fonts_with_letters

COMPRESSION = 2  # of zlib, 0 to 9: half the time of 6 for a tenth more bytes


class DefaultFigure(Figure):
    """Figure that is always drawn and saved with matplotlib's default settings."""

    def draw(self, renderer: Any) -> None:
        """Draw with the default settings, in fonts that contain its characters."""
        with default_settings():
            use_fonts_with_letters(self)
            super().draw(renderer)

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save as matplotlib does, with the default settings."""
        with default_settings():
            use_fonts_with_letters(self)
            if str(getattr(fname, "name", fname)).lower().endswith(".png"):
                compression = {"compress_level": COMPRESSION}
                options["pil_kwargs"] = compression | (options.get("pil_kwargs") or {})
            super().savefig(fname, **options)
