"""Reading of object masks in any encoding: cut-outs, palettes, labels, two levels, grey.

The encoding is inferred from alpha, palette, colours and levels. Ambiguous masks are refused.
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
    MaskEncoding,
    Rule,
    alpha_rule,
    common_encoding,
    grey_rule,
    label_rule,
    plural,
)
from .picture import apply_orientation

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats that change levels slightly
CHROMA = 48  # maximum difference between the channels of a grey pixel in a lossy file


@dataclass(frozen=True, eq=False)
class RawMask:
    """Content of a mask before interpretation.

    Parameters
    ----------
    name : file name, or a description
    numbers : (H, W), levels of a single channel, or palette labels; None for colours
    alpha : (H, W) or None
    shades : (H, W), grey levels of a palette without colours
    colours : (H, W), 24-bit colours of a mask that is not grey
    is_label : whether `numbers` are palette labels
    lossy : whether the file format changes levels slightly
    """

    name: str
    numbers: np.ndarray | None = None
    alpha: np.ndarray | None = None
    shades: np.ndarray | None = None
    colours: np.ndarray | None = None
    is_label: bool = False
    lossy: bool = False


def open_mask(source: Any, size: tuple[int, int] | None = None) -> RawMask:
    """Open a mask from a file, a PIL image or an array.

    Raises
    ------
    ImageError
        For a mask that cannot be read, or that is not of `size` (width, height).
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            with Image.open(path) as opened:
                file_format = opened.format
                if size is not None and opened.size != size[::-1]:
                    _check_size(opened.size, size, path.name)
                image = apply_orientation(opened)
                _check_size(image.size, size, path.name)
                return _from_image(image, path.name, file_format in LOSSY)
        except ImageError:
            raise
        except Exception as error:  # decoders raise any error on damaged files
            reason = " ".join(str(error).split())
            raise ImageError(f"mask: expected a picture, got {path} ({reason})") from error
    if isinstance(source, Image.Image):
        _check_size(source.size, size, "a PIL image")
        return _from_image(
            apply_orientation(source), "mask", getattr(source, "format", None) in LOSSY
        )
    raw = _from_array(np.asarray(source))
    numbers = raw.numbers if raw.numbers is not None else raw.colours
    assert numbers is not None
    _check_size((numbers.shape[1], numbers.shape[0]), size, "an array")
    return raw


def _check_size(actual: tuple[int, int], size: tuple[int, int] | None, name: str) -> None:
    if size is not None and actual != size:
        raise ImageError(
            f"mask: expected {size[0]}x{size[1]} pixels, the size of the image, got "
            f"{actual[0]}x{actual[1]} in {name} — give the mask of this image at its full size"
        )


def _from_array(array: np.ndarray) -> RawMask:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,), (4,)):
        raise ShapeError(f"mask: expected (H, W) or (H, W, 1|3|4), got {array.shape}")
    if array.dtype.kind == "f":
        array = _to_integers(array)
    if array.dtype.kind not in "bui":
        raise ImageError(f"mask: expected numbers, got {array.dtype} — {ADVICE}")
    if array.ndim == 2:
        return RawMask("mask", array)
    if array.min() < 0 or array.max() > 255 or array.dtype.kind == "b":
        raise ImageError(
            f"mask: expected colours from 0 to 255, got {array.dtype} in [{array.min()}, "
            f"{array.max()}] — {ADVICE}"
        )
    return _from_image(Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)), "mask", False)


def _to_integers(values: np.ndarray) -> np.ndarray:
    """Convert floats to integer levels: [0, 1] becomes 0 to 255, whole numbers are kept."""
    if not np.isfinite(values).all():
        raise ImageError("mask: expected finite numbers, got NaN or inf — clean it first")
    if values.min() >= 0 and 0.5 <= values.max() <= 1:
        is_binary = bool(np.isin(values, (0, 1)).all())
        return values.astype(bool) if is_binary else np.rint(values * 255.0).astype(np.uint8)
    if np.array_equal(values, np.rint(values)) and abs(values).max() < 2**31:
        return values.astype(np.int64)
    raise ImageError(
        f"mask: expected floats from 0 to 1, got [{values.min():.4g}, {values.max():.4g}] "
        "— divide by the maximum"
    )


def _from_image(image: Image.Image, name: str, lossy: bool) -> RawMask:
    if image.mode == "P" and not _has_alpha(image):
        return _from_palette(image, name)
    if image.has_transparency_data or image.mode in ("PA", "La", "RGBa"):
        labels = np.asarray(image) if image.mode == "P" else None
        solid = image.convert("RGBA")
        alpha = np.asarray(solid.getchannel("A"))
        if labels is not None and _is_label_map(labels, alpha):
            return _from_palette(image, name)
        raw = _from_channels(np.asarray(solid.convert("RGB")), name, lossy)
        return RawMask(name, raw.numbers, alpha, None, raw.colours, False, lossy)
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        numbers = np.asarray(image)
        if numbers.dtype.kind == "f":
            numbers = _to_integers(numbers)
        return RawMask(name, numbers, lossy=lossy)
    return _from_channels(np.asarray(image.convert("RGB")), name, lossy)


def _has_alpha(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return False
    return varies(np.asarray(image.convert("RGBA").getchannel("A")))


def _is_label_map(labels: np.ndarray, alpha: np.ndarray) -> bool:
    """Return whether a palette image has a transparent label 0 and the void label."""
    levels = np.unique(labels)
    return (
        int(levels[-1]) == VOID
        and len(levels) <= MOST_LABELS
        and np.array_equal(alpha == 0, labels == 0)
    )


def _from_palette(image: Image.Image, name: str) -> RawMask:
    labels = np.asarray(image)
    colours = np.asarray(image.convert("RGB"))
    if (np.ptp(colours, axis=-1) > 0).any():
        return RawMask(name, labels, is_label=True)
    shades = colours[..., 0]
    if np.array_equal(shades, labels):  # a grey picture with a grey palette
        return RawMask(name, labels)
    return RawMask(name, labels, shades=shades, is_label=True)


def _from_channels(pixels: np.ndarray, name: str, lossy: bool) -> RawMask:
    """Read RGB (H, W, 3) as grey levels if the channels agree, otherwise as colours."""
    difference = int(np.ptp(pixels.astype(np.int16), axis=-1).max())
    if difference <= (CHROMA if lossy else 0):
        numbers = pixels[..., 0] if not lossy else np.rint(pixels.mean(axis=-1)).astype(np.uint8)
        return RawMask(name, numbers, lossy=lossy)
    wide = pixels.astype(np.uint32)
    return RawMask(name, colours=wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], lossy=lossy)


def varies(numbers: np.ndarray) -> bool:
    """Return whether the numbers differ."""
    return bool((numbers != numbers.flat[0]).any())


ONE_CHANNEL = "save image.getchannel('A') or image.convert('RGB') alone"


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """Object as booleans (H, W), how the mask was read, and whether it needs no note."""

    inside: np.ndarray
    reading: str
    is_plain: bool


def read_mask(
    source: Any, size: tuple[int, int] | None = None, encoding: MaskEncoding | None = None
) -> ObjectMask:
    """Read the object in a mask.

    The object is white on black, the non-zero one of two levels, the opaque part of a cut-out,
    labels above 0 (of a palette or small numbers; 255 is then void and counts as background), or
    shades of grey from 128. The same object gives the same booleans in each encoding.

    Parameters
    ----------
    source : a file, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)
    size : required (width, height) of the mask
    encoding : encoding of the data set of the mask, see `infer_mask_encoding`

    Raises
    ------
    ImageError
        For a mask that cannot be read, is of another size, or is ambiguous.

    Examples
    --------
    >>> read_mask(np.array([[0, 1], [1, 0]])).inside.tolist()
    [[False, True], [True, False]]
    """
    raw = open_mask(source, size)
    try:
        numbers, rule = _select_rule(raw, encoding)
    except ImageError as error:
        line = str(error)
        raise ImageError(line.replace(" — ", f" in {raw.name} — ", 1)) from error
    inside = rule.inside(numbers)
    reading = rule.text
    if _covers_border(inside) and not inside.all():
        reading += "; it covers the image border: invert the mask if it is the background"
    return ObjectMask(inside, reading, rule.is_plain and reading == rule.text)


def infer_mask_encoding(sources: Sequence[Any]) -> MaskEncoding:
    """Return the common encoding of the masks of a data set; skip files that cannot be read."""
    rules: list[Rule] = []
    ambiguous: list[np.ndarray] = []
    alpha = False
    for source in sources:
        try:
            raw = open_mask(source)
        except ImageError:
            continue
        alpha = alpha or (raw.alpha is not None and varies(raw.alpha))
        try:
            numbers, rule = _select_rule(raw, None)
        except ImageError:
            if raw.numbers is not None:
                ambiguous.append(np.unique(raw.numbers))
            continue
        if numbers.any() and varies(numbers):
            rules.append(rule)
    return common_encoding(rules, ambiguous, alpha=alpha)


def _select_rule(raw: RawMask, encoding: MaskEncoding | None) -> tuple[np.ndarray, Rule]:
    """Return the channel that contains the mask, and the rule for the object in it."""
    if raw.alpha is not None and (varies(raw.alpha) or (encoding is not None and encoding.alpha)):
        return raw.alpha, _checked_alpha_rule(raw, encoding)
    if raw.alpha is not None and not raw.alpha.any():
        return _transparent_rule(raw)
    if raw.numbers is None:
        return _colour_rule(raw)
    if raw.numbers.dtype.kind == "b":
        return raw.numbers, Rule(1, "true is the object", is_plain=True)
    levels = np.unique(raw.numbers)
    if raw.is_label and raw.shades is not None:
        return _shaded_palette_rule(raw, encoding)
    if raw.is_label:
        return raw.numbers, label_rule(levels, encoding)
    return raw.numbers, grey_rule(levels, encoding, lossy=raw.lossy)


def _checked_alpha_rule(raw: RawMask, encoding: MaskEncoding | None) -> Rule:
    assert raw.alpha is not None
    rule = alpha_rule(np.unique(raw.alpha), encoding)
    if raw.numbers is not None:
        opaque = np.unique(raw.numbers[rule.inside(raw.alpha)])
        if opaque.tolist() == [0, 255]:
            raise ImageError(
                "mask: expected one mask, got alpha that varies, and black and white where it is "
                f"opaque — {ONE_CHANNEL}"
            )
    return rule


def _transparent_rule(raw: RawMask) -> tuple[np.ndarray, Rule]:
    """Return the rule for alpha of 0 everywhere: no object, unless the colours are a mask."""
    assert raw.alpha is not None
    numbers = raw.numbers
    if numbers is not None and numbers.any() and np.isin(numbers, (0, 255)).all():
        raise ImageError(
            "mask: expected one mask, got alpha of 0 everywhere, and white in the colours — "
            f"{ONE_CHANNEL}"
        )
    return raw.alpha, Rule(1, "alpha is 0 everywhere, which is no object")


def _colour_rule(raw: RawMask) -> tuple[np.ndarray, Rule]:
    assert raw.colours is not None
    colours = np.unique(raw.colours)
    if len(colours) != 2 or colours[0] != 0 or raw.lossy:
        listed = ", ".join(f"#{colour:06x}" for colour in colours[:4])
        count = f"{len(colours)} colours" if len(colours) > 1 else "the colour"
        raise ImageError(
            f"mask: expected black and one colour, got {count} ({listed}"
            f"{', …' if len(colours) > 4 else ''}) — {ADVICE}"
        )
    return raw.colours, Rule(1, f"colour #{colours[1]:06x} is the object, black the background")


def _shaded_palette_rule(raw: RawMask, encoding: MaskEncoding | None) -> tuple[np.ndarray, Rule]:
    """Return the rule for a palette of greys: labels and shades must show the same object."""
    assert raw.numbers is not None and raw.shades is not None
    rules: list[tuple[np.ndarray, Rule]] = []
    refusals: list[ImageError] = []
    labels, shades = np.unique(raw.numbers), np.unique(raw.shades)
    try:
        rules.append((raw.numbers, label_rule(labels, encoding)))
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
            f"the labels, shown as {plural(shades)} of grey — {ADVICE}"
        )
    return next((pair for pair in rules if pair[1].is_plain), rules[0])


def _covers_border(inside: np.ndarray) -> bool:
    """Return whether the object covers the whole border of the picture."""
    edges = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return all(bool(edge.all()) for edge in edges)
