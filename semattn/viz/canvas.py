"""Creation of figures: default settings, fonts for any script, colours.

Figures are drawn on the Agg canvas, without pyplot, with matplotlib's default settings: a
matplotlibrc, a style and `MPLBACKEND` have no effect on them. The settings of the caller are
restored afterwards. matplotlib is imported when the first figure is created.
"""

from __future__ import annotations

import threading
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import plain
from ..utils.library_imports import import_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Perceptually uniform; two palettes, so that map and density are not confused.
MAP, DENSITY = "inferno", "viridis"
INK, MUTED, ACCENT, EMPTY = "#17181c", "#6c7078", "#ffc53d", "#eceef1"
COMPRESSION = 2  # of zlib, 0 to 9: half the time of 6 for a tenth more bytes
FONT = "DejaVu Sans"  # bundled with matplotlib
# Fonts of placeholder boxes, mathematics and coloured emoji, which are not used.
UNUSABLE = ("Last Resort", "STIX", "cm", "Color", "DejaVu")
SHAPING = (3, 11)  # first matplotlib release with text shaping
_SHAPED = ((0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x1A20, 0x1AAF))
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

    with default_settings():
        figure = _figure_class()(figsize=(width, height), dpi=200, facecolor="white")
        FigureCanvasAgg(figure)
    return figure


@cache
def _figure_class() -> type[Figure]:
    """Return the figure class, which is always drawn and saved with the default settings."""
    from matplotlib.figure import Figure

    class DefaultFigure(Figure):
        def draw(self, renderer: Any) -> None:
            with default_settings():
                use_fonts_with_letters(self)
                super().draw(renderer)

        def savefig(self, fname: Any, **options: Any) -> None:
            with default_settings():
                use_fonts_with_letters(self)
                if str(getattr(fname, "name", fname)).lower().endswith(".png"):
                    compression = {"compress_level": COMPRESSION}
                    options["pil_kwargs"] = compression | (options.get("pil_kwargs") or {})
                super().savefig(fname, **options)

    return DefaultFigure


def apply_palette(palette: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map values in [0, 1] to colours (…, 3), without the nearly black tenth of the palette."""
    import_matplotlib()
    from matplotlib import colormaps

    return colormaps[palette](0.1 + 0.9 * values)[..., :3]


def fade_picture(picture: NDArray[np.uint8], colour: float, light: float) -> NDArray[np.float64]:
    """Return a picture with its saturation scaled by `colour` and its brightness by `light`."""
    rgb: NDArray[Any] = picture / 255
    grey = (rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    return light * (colour * rgb + (1 - colour) * grey)


def missing_letters(text: str) -> str:
    """Return the characters of a text that cannot be drawn, without duplicates."""
    if text.isascii():
        return ""
    _, missing = _fonts("".join(sorted(_letters(text))))
    return missing


def drawable_name(name: str, number: int) -> str:
    """Return a class name, or "class NUMBER" with a warning if no font has its characters."""
    missing = missing_letters(name)
    if not missing:
        return name
    warnings.warn(f"{_reason(missing, name)}: the figure shows class {number} instead",
                  UserWarning, stacklevel=2)  # fmt: skip
    return f"class {number}"


class DrawableNames(tuple[str, ...]):
    """Class names with the class number in place of a name that no font can draw.

    A name is checked when it is used, so a figure warns only of the names that it shows.
    """

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        """Return the drawable name of class `key`."""
        name = super().__getitem__(key)
        return drawable_name(name, key) if isinstance(name, str) else name


def use_fonts_with_letters(figure: Any) -> None:
    """Set the fonts of each text of a figure; characters without a font become escapes."""
    for text in _texts(figure):
        content = text.get_text()
        if content.isascii():
            continue
        families, missing = _fonts("".join(sorted(_letters(content))))
        if missing:
            warnings.warn(f"{_reason(missing, content)}: the figure shows their numbers instead",
                          UserWarning, stacklevel=2)  # fmt: skip
        visible = [character for character in content if not _is_invisible(character)]
        text.set_text(
            "".join(
                _escaped(character) if character in missing else character for character in visible
            )
        )
        if families:
            text.set_fontfamily([FONT, *families])


def _texts(figure: Any) -> Iterator[Any]:
    """Yield the texts of a figure, without those of hidden axes, which matplotlib would create."""
    from matplotlib.text import Text

    yield from figure.texts
    if figure._suptitle is not None:
        yield figure._suptitle
    for axes in figure.axes:
        yield from axes.findobj(Text) if axes.axison else axes.texts


def _letters(text: str) -> set[str]:
    """Return the characters that need a font: neither ASCII nor invisible."""
    return {
        character for character in text if not character.isascii() and not _is_invisible(character)
    }


def _is_invisible(character: str) -> bool:
    """Return whether a character selects a form of its neighbour."""
    return "\ufe00" <= character <= "\ufe0f"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _reason(missing: str, text: str) -> str:
    import matplotlib as mpl

    name = repr(plain(" ".join(text.split()))[:60])
    if all(_is_unshaped(character) for character in missing):
        return f"matplotlib {mpl.__version__} cannot join the letters of {name}; 3.11 does"
    return f"no installed font has the letters of {name}"


def _is_unshaped(character: str) -> bool:
    """Return whether this matplotlib draws a character without the shaping that it needs."""
    import matplotlib as mpl

    if tuple(mpl.__version_info__[:2]) >= SHAPING:
        return False
    joined = any(first <= ord(character) <= last for first, last in _SHAPED)
    return joined or unicodedata.bidirectional(character) in ("R", "AL")


@lru_cache(maxsize=1024)
def _fonts(letters: str) -> tuple[tuple[str, ...], str]:
    """Return the font families that `letters` need beyond `FONT`, and the undrawable letters."""
    import_matplotlib()
    from matplotlib import font_manager

    unshaped = {character for character in letters if _is_unshaped(character)}
    default_path = font_manager.findfont(FONT)
    needed = (
        set(letters)
        - unshaped
        - {character for character in letters if ord(character) in _codes(default_path)}
    )
    families: list[str] = []
    for refresh in (False, True):
        if not needed:
            break
        if refresh:  # matplotlib's list lacks fonts that were installed later
            _add_new_fonts(font_manager)
        for name, path in _candidates(font_manager):
            if covered := {character for character in needed if ord(character) in _codes(path)}:
                families.append(name)
                needed -= covered
    return tuple(families), "".join(sorted(needed | unshaped))


def _candidates(font_manager: Any) -> list[tuple[str, str]]:
    """Return family and file of each usable upright font, one per family, sans-serif first."""
    files: dict[str, str] = {}
    entries = sorted(
        font_manager.fontManager.ttflist,
        key=lambda entry: (entry.style != "normal", str(entry.weight) not in ("400", "normal")),
    )
    for entry in entries:
        if not any(word in entry.name for word in UNUSABLE):
            files.setdefault(entry.name, entry.fname)
    return sorted(files.items(), key=lambda item: ("Sans" not in item[0], item[0]))


def _add_new_fonts(font_manager: Any) -> None:
    """Add the fonts that were installed after matplotlib listed them."""
    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in listed:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # not a font file
                continue


@lru_cache(maxsize=256)
def _codes(path: str) -> frozenset[int]:
    """Return the code points that a font can draw; empty for bitmap and damaged fonts."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
