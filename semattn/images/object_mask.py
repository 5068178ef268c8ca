"""Read the mask of an object from any encoding: cut-outs, palettes, labels, two levels, grey.

Looks at alpha, palette, colours and levels first; what allows two readings is refused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semattn.errors import ImageError, ShapeError

from .mask_levels import (
    ADVICE,
    MOST_LABELS,
    VOID,
    Coding,
    Rule,
    alpha_rule,
    coding_of,
    grey_rule,
    label_rule,
    plural,
)
from .picture import upright

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats that may change levels a little
ONE_CHANNEL = "save image.getchannel('A') or image.convert('RGB') alone"
CHROMA = 48  # by how much the channels of a grey pixel may differ in a lossy file


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """The object as booleans (H, W), how the mask was read, and whether that needs no word."""

    inside: np.ndarray
    reading: str
    is_plain: bool


@dataclass(frozen=True, eq=False)
class RawMask:
    """The content of a mask before it is decided what it means.

    Parameters
    ----------
    name : of the file, or what it is
    numbers : (H, W), of the one channel, or the labels of a palette; None for colours alone
    alpha : (H, W) or None
    shades : (H, W), the grey levels of a palette that has no colours
    colours : (H, W), 24-bit colours of what is not grey
    is_label : whether `numbers` are labels of a palette
    lossy : whether the file format changes levels a little
    """

    name: str
    numbers: np.ndarray | None = None
    alpha: np.ndarray | None = None
    shades: np.ndarray | None = None
    colours: np.ndarray | None = None
    is_label: bool = False
    lossy: bool = False


def read_mask(
    source: Any, size: tuple[int, int] | None = None, coding: Coding | None = None
) -> ObjectMask:
    """Return the object that a mask shows.

    White on black, two levels with 0 for the background, alpha of a cut-out, labels above 0 of a
    palette or of small numbers (255 then is a void and counts as background), and shades of grey
    from half on are the object. The same object gives the same booleans in each encoding.

    Parameters
    ----------
    source : a file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
    size : (width, height) that the mask must have
    coding : of the data set that the mask is of, see `coding_of_masks`

    Raises
    ------
    ImageError
        For what is not a picture, is of another size, or allows two readings.

    Examples
    --------
    >>> read_mask(np.array([[0, 1], [1, 0]])).inside.tolist()
    [[False, True], [True, False]]
    """
    raw = open_mask(source, size)
    try:
        numbers, rule = _decide(raw, coding)
    except ImageError as error:
        line = str(error)
        raise ImageError(line.replace(" — ", f" in {raw.name} — ", 1)) from error
    inside = rule.inside(numbers)
    reading = rule.text
    if _is_border(inside) and not inside.all():
        reading += "; it covers the border of the picture: invert the mask if it is the background"
    return ObjectMask(inside, reading, rule.is_plain and reading == rule.text)


def coding_of_masks(sources: Sequence[Any]) -> Coding:
    """Return what is common to the masks of a data set; files that cannot be read do not count."""
    rules: list[Rule] = []
    ambiguous: list[np.ndarray] = []
    alpha = False
    for source in sources:
        try:
            raw = open_mask(source)
        except ImageError:
            continue
        alpha = alpha or (raw.alpha is not None and _varies(raw.alpha))
        try:
            numbers, rule = _decide(raw, None)
        except ImageError:
            if raw.numbers is not None:
                ambiguous.append(np.unique(raw.numbers))
            continue
        if numbers.any() and _varies(numbers):
            rules.append(rule)
    return coding_of(rules, ambiguous, alpha=alpha)


def open_mask(source: Any, size: tuple[int, int] | None = None) -> RawMask:
    """Return the content of a mask: a file, a PIL image or an array.

    Raises
    ------
    ImageError
        For what cannot be read, or is not of `size` (width, height).
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            with Image.open(path) as opened:
                form = opened.format
                if size is not None and opened.size != size[::-1]:
                    _check_size(opened.size, size, path.name)
                image = upright(opened)
                _check_size(image.size, size, path.name)
                return _of_image(image, path.name, form in LOSSY)
        except ImageError:
            raise
        except Exception as error:  # decoders raise anything on damaged bytes
            reason = " ".join(str(error).split())
            raise ImageError(f"mask: expected a picture, got {path} ({reason})") from error
    if isinstance(source, Image.Image):
        _check_size(source.size, size, "a PIL image")
        return _of_image(upright(source), "mask", getattr(source, "format", None) in LOSSY)
    raw = _of_array(np.asarray(source))
    numbers = raw.numbers if raw.numbers is not None else raw.colours
    assert numbers is not None
    _check_size((numbers.shape[1], numbers.shape[0]), size, "an array")
    return raw


def _check_size(found: tuple[int, int], size: tuple[int, int] | None, name: str) -> None:
    if size is not None and found != size:
        raise ImageError(
            f"mask: expected {size[0]}x{size[1]} pixels as the image has, got "
            f"{found[0]}x{found[1]} in {name} — give the mask of this image at its full size"
        )


def _of_array(array: np.ndarray) -> RawMask:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise ShapeError(f"mask: expected (H, W) or (H, W, 1|3|4), got {array.shape}")
    if array.dtype.kind == "f":
        array = _integers(array)
    if array.dtype.kind not in "bui":
        raise ImageError(f"mask: expected numbers, got {array.dtype} — {ADVICE}")
    if array.ndim == 2:
        return RawMask("mask", array)
    if array.min() < 0 or array.max() > 255 or array.dtype.kind == "b":
        raise ImageError(
            f"mask: expected colours from 0 to 255, got {array.dtype} in [{array.min()}, "
            f"{array.max()}] — {ADVICE}"
        )
    return _of_image(Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)), "mask", False)


def _integers(values: np.ndarray) -> np.ndarray:
    """Floats as levels: [0, 1] becomes 0 to 255, whole numbers stay."""
    if not np.isfinite(values).all():
        raise ImageError("mask: expected finite numbers, got NaN or inf — clean it first")
    if values.min() >= 0 and 0.5 <= values.max() <= 1:
        is_binary = bool(np.isin(values, (0, 1)).all())
        return values.astype(bool) if is_binary else np.rint(values * 255.0).astype(np.uint8)
    if np.array_equal(values, np.rint(values)) and abs(values).max() < 2**31:
        return values.astype(np.int64)
    raise ImageError(
        f"mask: expected floats from 0 to 1, got some in [{values.min():.4g}, {values.max():.4g}] "
        "— divide by the greatest value"
    )


def _of_image(image: Image.Image, name: str, lossy: bool) -> RawMask:
    if image.mode == "P" and not _has_alpha(image):
        return _of_palette(image, name)
    if image.has_transparency_data or image.mode in ("PA", "La", "RGBa"):
        labels = np.asarray(image) if image.mode == "P" else None
        solid = image.convert("RGBA")
        alpha = np.asarray(solid.getchannel("A"))
        if labels is not None and _is_label_map(labels, alpha):
            return _of_palette(image, name)
        raw = _of_channels(np.asarray(solid.convert("RGB")), name, lossy)
        return RawMask(name, raw.numbers, alpha, None, raw.colours, False, lossy)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        numbers = np.asarray(image)
        if numbers.dtype.kind == "f":
            numbers = _integers(numbers)
        return RawMask(name, numbers, lossy=lossy)
    return _of_channels(np.asarray(image.convert("RGB")), name, lossy)


def _has_alpha(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    return _varies(np.asarray(image.convert("RGBA").getchannel("A")))


def _is_label_map(labels: np.ndarray, alpha: np.ndarray) -> bool:
    """Return whether a palette shows label 0 as transparent, and has the void label."""
    levels = np.unique(labels)
    return (
        int(levels[-1]) == VOID
        and len(levels) <= MOST_LABELS
        and np.array_equal(alpha == 0, labels == 0)
    )


def _of_palette(image: Image.Image, name: str) -> RawMask:
    labels = np.asarray(image)
    colours = np.asarray(image.convert("RGB"))
    if (np.ptp(colours, axis=-1) > 0).any():
        return RawMask(name, labels, is_label=True)
    shades = colours[..., 0]
    if np.array_equal(shades, labels):  # a grey picture that was given a palette
        return RawMask(name, labels)
    return RawMask(name, labels, shades=shades, is_label=True)


def _of_channels(pixels: np.ndarray, name: str, lossy: bool) -> RawMask:
    """RGB (H, W, 3): grey where the channels agree, else colours."""
    difference = int(np.ptp(pixels.astype(np.int16), axis=-1).max())
    if difference <= (CHROMA if lossy else 0):
        numbers = pixels[..., 0] if not lossy else np.rint(pixels.mean(axis=-1)).astype(np.uint8)
        return RawMask(name, numbers, lossy=lossy)
    wide = pixels.astype(np.uint32)
    return RawMask(name, colours=wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], lossy=lossy)


def _decide(raw: RawMask, coding: Coding | None) -> tuple[np.ndarray, Rule]:
    """The numbers that the mask is in, and the rule that tells the object among them."""
    if raw.alpha is not None and (_varies(raw.alpha) or (coding is not None and coding.alpha)):
        return raw.alpha, _alpha_rule(raw, coding)
    if raw.alpha is not None and not raw.alpha.any():
        return _transparent(raw)
    if raw.numbers is None:
        return _coloured(raw)
    if raw.numbers.dtype.kind == "b":
        return raw.numbers, Rule(1, "true is the object", is_plain=True)
    levels = np.unique(raw.numbers)
    if raw.is_label and raw.shades is not None:
        return _shaded_palette(raw, coding)
    if raw.is_label:
        return raw.numbers, label_rule(levels, coding)
    return raw.numbers, grey_rule(levels, coding, lossy=raw.lossy)


def _alpha_rule(raw: RawMask, coding: Coding | None) -> Rule:
    assert raw.alpha is not None
    rule = alpha_rule(np.unique(raw.alpha), coding)
    if raw.numbers is not None:
        opaque = np.unique(raw.numbers[rule.inside(raw.alpha)])
        if opaque.tolist() == [0, 255]:
            raise ImageError(
                "mask: expected one mask, got alpha that varies, and black and white where it is "
                f"opaque — {ONE_CHANNEL}"
            )
    return rule


def _transparent(raw: RawMask) -> tuple[np.ndarray, Rule]:
    """Alpha of 0 everywhere: no object, unless the colours are a mask of their own."""
    assert raw.alpha is not None
    numbers = raw.numbers
    if numbers is not None and numbers.any() and np.isin(numbers, (0, 255)).all():
        raise ImageError(
            "mask: expected one mask, got alpha of 0 everywhere, and white in the colours — "
            f"{ONE_CHANNEL}"
        )
    return raw.alpha, Rule(1, "alpha is 0 everywhere, which is no object")


def _coloured(raw: RawMask) -> tuple[np.ndarray, Rule]:
    assert raw.colours is not None
    colours = np.unique(raw.colours)
    if len(colours) != 2 or colours[0] != 0 or raw.lossy:
        some = ", ".join(f"#{colour:06x}" for colour in colours[:4])
        count = f"{len(colours)} colours" if len(colours) > 1 else "the colour"
        raise ImageError(
            f"mask: expected black and one colour, got {count} ({some}"
            f"{', …' if len(colours) > 4 else ''}) — {ADVICE}"
        )
    return raw.colours, Rule(1, f"colour #{colours[1]:06x} is the object, black the background")


def _shaded_palette(raw: RawMask, coding: Coding | None) -> tuple[np.ndarray, Rule]:
    """A palette of grey colours: its labels and its shades must show the same object."""
    assert raw.numbers is not None and raw.shades is not None
    rules: list[tuple[np.ndarray, Rule]] = []
    refusals: list[ImageError] = []
    labels, shades = np.unique(raw.numbers), np.unique(raw.shades)
    try:
        rules.append((raw.numbers, label_rule(labels, coding)))
    except ImageError as error:
        refusals.append(error)
    try:
        rules.append((raw.shades, grey_rule(shades)))
    except ImageError as error:
        refusals.append(error)
    if not rules:
        raise refusals[0]
    insides = [rule.inside(numbers) for numbers, rule in rules]
    if not np.array_equal(insides[0], insides[-1]):
        raise ImageError(
            f"mask: expected labels and shades of the palette that agree, got {plural(labels)} of "
            f"the labels, drawn in {plural(shades)} of grey — {ADVICE}"
        )
    return next((pair for pair in rules if pair[1].is_plain), rules[0])


def _varies(numbers: np.ndarray) -> bool:
    return bool((numbers != numbers.flat[0]).any())


def _is_border(inside: np.ndarray) -> bool:
    """Return whether the object covers the whole border of the picture."""
    edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return all(bool(edge.all()) for edge in edges)
