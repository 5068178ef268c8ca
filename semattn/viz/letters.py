"""Fonts for the letters of class names and file names, in any alphabet.

`missing_letters` returns the letters that no installed font has, `use_fonts_with_letters` gives
each text of a figure the fonts that it needs.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..errors import plain
from ..utils.matplotlib_import import import_matplotlib

FONT = "DejaVu Sans"  # matplotlib's own, always there
# Fonts of boxes in place of letters, of mathematics, and of coloured pictures, which are not drawn.
UNUSABLE = ("Last Resort", "STIX", "cm", "Color", "DejaVu")
SHAPING = (3, 11)  # the release of matplotlib that joins and orders letters
_SHAPED = ((0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x1A20, 0x1AAF))


def missing_letters(text: str) -> str:
    """Return the letters of a text that cannot be drawn, each once; "" for none."""
    if text.isascii():
        return ""
    _, missing = _fonts("".join(sorted(_letters(text))))
    return missing


def drawable_name(name: str, number: int) -> str:
    """Return a class name, or the number of the class where no font has the letters.

    Warns in the second case, once a name.
    """
    missing = missing_letters(name)
    if not missing:
        return name
    warnings.warn(f"{_reason(missing, name)}: the figure shows class {number} instead",
                  UserWarning, stacklevel=2)  # fmt: skip
    return f"class {number}"


class DrawableNames(tuple[str, ...]):
    """Class names of which each is the class number instead where no font has its letters.

    A name is looked at once it is used, so that a figure warns of those alone that it shows.
    """

    __slots__ = ()

    def __getitem__(self, key: Any) -> Any:
        """Return the name of class `key` as a figure can show it."""
        name = super().__getitem__(key)
        return drawable_name(name, key) if isinstance(name, str) else name


def use_fonts_with_letters(figure: Any) -> None:
    """Give each text of a figure the fonts that have its letters; others become escapes."""
    for text in _texts(figure):
        shown = text.get_text()
        if shown.isascii():
            continue
        families, missing = _fonts("".join(sorted(_letters(shown))))
        if missing:
            warnings.warn(f"{_reason(missing, shown)}: the figure shows their numbers instead",
                          UserWarning, stacklevel=2)  # fmt: skip
        kept = [one for one in shown if not _is_invisible(one)]
        text.set_text("".join(_escaped(one) if one in missing else one for one in kept))
        if families:
            text.set_fontfamily([FONT, *families])


def _texts(figure: Any) -> Iterator[Any]:
    """Yield the texts of a figure; without those of hidden axes, which matplotlib would create."""
    from matplotlib.text import Text

    yield from figure.texts
    if figure._suptitle is not None:
        yield figure._suptitle
    for axes in figure.axes:
        yield from axes.findobj(Text) if axes.axison else axes.texts


def _letters(text: str) -> set[str]:
    """Return what a font must have: neither ASCII nor invisible."""
    return {one for one in text if not one.isascii() and not _is_invisible(one)}


def _is_invisible(character: str) -> bool:
    """Return whether a character selects a form of its neighbour."""
    return "\ufe00" <= character <= "\ufe0f"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _reason(missing: str, text: str) -> str:
    import matplotlib as mpl

    name = repr(plain(" ".join(text.split()))[:60])
    if all(_is_unshaped(one) for one in missing):
        return f"matplotlib {mpl.__version__} cannot join the letters of {name}; 3.11 does"
    return f"no installed font has the letters of {name}"


def _is_unshaped(character: str) -> bool:
    """Return whether this matplotlib draws the letter, but not in its place or form."""
    import matplotlib as mpl

    if tuple(mpl.__version_info__[:2]) >= SHAPING:
        return False
    joined = any(first <= ord(character) <= last for first, last in _SHAPED)
    return joined or unicodedata.bidirectional(character) in ("R", "AL")


@lru_cache(maxsize=1024)
def _fonts(letters: str) -> tuple[tuple[str, ...], str]:
    """Return the families that letters need beyond `FONT`, and the letters that none has."""
    import_matplotlib()
    from matplotlib import font_manager

    unshaped = {one for one in letters if _is_unshaped(one)}
    own = font_manager.findfont(FONT)
    needed = set(letters) - unshaped - {one for one in letters if ord(one) in _codes(own)}
    families: list[str] = []
    for refresh in (False, True):
        if not needed:
            break
        if refresh:  # matplotlib's list does not follow what is installed later
            _add_new_fonts(font_manager)
        for name, path in _candidates(font_manager):
            if have := {one for one in needed if ord(one) in _codes(path)}:
                families.append(name)
                needed -= have
    return tuple(families), "".join(sorted(needed | unshaped))


def _candidates(font_manager: Any) -> list[tuple[str, str]]:
    """Return family and file of each usable upright font, one a family, sans-serif first."""
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
    """Enter the fonts that were installed after matplotlib listed them."""
    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in listed:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # a file that is no font
                continue


@lru_cache(maxsize=256)
def _codes(path: str) -> frozenset[int]:
    """Return the code points that a font can draw; none for one of pictures or a damaged one."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
