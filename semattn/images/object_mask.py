"""Reading of object masks in any encoding: cut-outs, palettes, labels, two levels, grey.

The encoding is inferred from alpha, palette, colours and levels. Ambiguous masks are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from semattn.errors import ImageError

from .mask_levels import (
    ADVICE,
    MaskEncoding,
    Rule,
    alpha_rule,
    common_encoding,
    grey_rule,
    label_rule,
    plural,
)
from .raw_mask import RawMask, open_mask, varies

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
