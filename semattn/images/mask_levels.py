"""Interpretation of mask levels: two levels, labels with a void label, or shades of grey.

The functions use only the sorted distinct levels of a mask; `object_mask` reads the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semattn.errors import ImageError

VOID = 255  # label of neither object nor background, as in Pascal VOC
HALF = 128  # minimum 8-bit level of the object in a grey mask
MOST_LABELS = 32  # maximum number of labels in one mask; more levels are shades of grey
RIM_LABELS = 32  # highest label with 255 as void; higher levels are shades of grey

ADVICE = "save the object as white (255) on black (0)"


@dataclass(frozen=True)
class Rule:
    """Rule for the object in a mask: levels from `least`, except `void`.

    `text` describes the rule. `scale` is the scale of a `MaskEncoding`; "" if the levels do not
    determine it. `is_plain` marks the standard form, white on black, which needs no note.
    """

    least: int
    text: str
    void: int | None = None
    scale: str = ""
    is_plain: bool = False

    def inside(self, numbers: np.ndarray) -> np.ndarray:
        """Return the object as booleans, in the shape of `numbers`."""
        is_object: np.ndarray = numbers >= self.least
        return is_object if self.void is None else is_object & (numbers != self.void)


@dataclass(frozen=True)
class MaskEncoding:
    """Common encoding of the masks of a data set, which resolves ambiguous files.

    Parameters
    ----------
    scale : "labels" (below 128, and 255 as void), "grey" (up to 255), or "" if unknown
    void : whether 255 is a void label
    alpha : whether the alpha channel is the mask; constant alpha then means all or nothing
    """

    scale: str = ""
    void: bool = False
    alpha: bool = False


def plural(levels: Sequence[int] | np.ndarray) -> str:
    """Return a text of levels for errors: "levels 0, 1, 255", "36 levels from 0 to 255"."""
    numbers = [int(level) for level in levels]
    if len(numbers) == 1:
        return f"only the level {numbers[0]}"
    if len(numbers) <= 6:
        return f"levels {', '.join(map(str, numbers))}"
    return f"{len(numbers)} levels from {numbers[0]} to {numbers[-1]}"


def grey_rule(
    levels: np.ndarray, encoding: MaskEncoding | None = None, *, lossy: bool = False
) -> Rule:
    """Return the rule for a mask with one channel.

    Parameters
    ----------
    levels : the distinct levels of the mask, ascending
    encoding : encoding of the data set, if known
    lossy : whether the file format changes levels slightly, as JPEG does

    Raises
    ------
    ImageError
        For ambiguous or unsupported levels.

    Examples
    --------
    >>> grey_rule(np.array([0, 1])).least, grey_rule(np.array([0, 90, 130, 255])).least
    (1, 128)
    """
    low, high = int(levels[0]), int(levels[-1])
    encoding = encoding or MaskEncoding()
    if low < 0 or high > 65535:
        raise _mask_error(levels, "levels from 0 to 65535")
    if high == 0:
        return Rule(1, "black everywhere, which is no object", is_plain=True)
    if lossy:
        return _lossy_rule(levels)
    if encoding.scale == "labels":
        return _rule_among_labels(levels, encoding)
    if encoding.scale == "grey":
        return _rule_among_greys(levels)
    return _single_mask_rule(levels)


def label_rule(levels: np.ndarray, encoding: MaskEncoding | None = None) -> Rule:
    """Return the rule for a palette mask: label 0 is background, 255 is void.

    Raises
    ------
    ImageError
        For ambiguous or unsupported labels.

    Examples
    --------
    >>> label_rule(np.array([0, 15, 255])).inside(np.array([0, 15, 255])).tolist()
    [False, True, False]
    """
    objects = [int(level) for level in levels if level not in (0, VOID)]
    has_void = int(levels[-1]) == VOID
    among_labels = encoding is not None and encoding.scale == "labels"
    if len(levels) > MOST_LABELS:
        raise _mask_error(levels, f"at most {MOST_LABELS} labels in a palette")
    if levels[0] != 0 and not among_labels:
        raise _mask_error(levels, "label 0 for the background in a palette")
    if has_void and not objects and not (encoding is not None and encoding.void):
        raise _mask_error(levels, "a label below 255, which often is a void, in a palette")
    if not objects and not has_void:
        return Rule(1, "label 0 everywhere, which is no object", is_plain=True)
    return _above_zero_rule(has_void)


def alpha_rule(levels: np.ndarray, encoding: MaskEncoding | None = None) -> Rule:
    """Return the rule for an alpha channel: opaque pixels are the object.

    Raises
    ------
    ImageError
        For ambiguous or unsupported levels.
    """
    low, high = int(levels[0]), int(levels[-1])
    if low == high and encoding is not None and encoding.alpha:
        return Rule(HALF, f"alpha is {high} everywhere")
    if low == 0 and len(levels) == 2:
        return Rule(1, f"alpha {high} is the object, alpha 0 the background")
    if len(levels) > 2 and low < 16 and high >= 240:
        return Rule(HALF, f"alpha of {HALF} and above is the object")
    raise _mask_error(levels, "alpha of 0 for the background and 255 for the object")


def common_encoding(
    rules: Sequence[Rule], ambiguous: Sequence[np.ndarray], *, alpha: bool
) -> MaskEncoding:
    """Return the common encoding of the masks of a data set.

    Parameters
    ----------
    rules : rules of the masks that are unambiguous by themselves
    ambiguous : levels of the ambiguous masks
    alpha : whether the alpha channel of any mask varies
    """
    labels = sum(rule.scale == "labels" for rule in rules)
    greys = sum(rule.scale == "grey" for rule in rules)
    scale = "labels" if labels > greys else "grey" if greys > labels else ""
    has_void_label = any(len(levels) > 2 and _has_void_label(levels) for levels in ambiguous)
    void = any(rule.void is not None for rule in rules) or has_void_label
    return MaskEncoding(scale, scale == "labels" and void, alpha)


def _above_zero_rule(has_void: bool) -> Rule:
    void_text = ", and 255 is a void, which counts as background" if has_void else ""
    text = f"labels above 0 are the object, 0 is the background{void_text}"
    return Rule(1, text, VOID if has_void else None, "labels")


def _shade_rule(half: int = HALF, of: str = "shades of grey") -> Rule:
    return Rule(half, f"{of}, {half} and above is the object", scale="grey")


def _lossy_rule(levels: np.ndarray) -> Rule:
    low, high = int(levels[0]), int(levels[-1])
    if high > 191 and (low < 64 or low > 191):
        return _shade_rule(of="black and white of a lossy file")
    raise _mask_error(levels, "black and white in a lossy file")


def _single_mask_rule(levels: np.ndarray) -> Rule:
    low, high, count = int(levels[0]), int(levels[-1]), len(levels)
    full = 255 if high <= 255 else 65535
    if count == 1 and high in (1, 255, 65535):
        return Rule(1, f"{high} everywhere, which is all object")
    if count == 2 and low == 0:
        scale = "labels" if high < HALF else "grey" if high <= 255 else ""
        text = f"{high} is the object, 0 the background"
        return Rule(1, text, scale=scale, is_plain=high == full)
    inner = levels[(levels > 0) & (levels < full)]
    if low == 0 and len(inner) > 1 and _has_void_label(levels):
        return _above_zero_rule(has_void=True)
    if low == 0 and 2 < count <= MOST_LABELS and high < HALF and high != 100:
        return _above_zero_rule(has_void=False)
    is_trimap = low == 0 and high == full and count == 3 and inner[0] < 0.88 * full
    if count > 2 and not is_trimap and low <= full / 16 and high >= full * 15 / 16:
        half = HALF if full == 255 else 32768
        return _shade_rule(half)
    raise _mask_error(levels, "two levels, labels from 0, or shades from black to white")


def _rule_among_labels(levels: np.ndarray, encoding: MaskEncoding) -> Rule:
    has_void = int(levels[-1]) == VOID and encoding.void
    numbers = levels[:-1] if has_void else levels
    if len(numbers) and int(numbers[-1]) >= HALF:
        raise _mask_error(levels, "labels below 128, as the other masks hold")
    return _above_zero_rule(has_void)


def _rule_among_greys(levels: np.ndarray) -> Rule:
    high = int(levels[-1])
    if high < HALF:
        raise _mask_error(levels, "levels up to 255, as the other masks hold")
    if high > 255 or (len(levels) == 2 and levels[0] == 0):
        return _single_mask_rule(levels)
    if len(levels) > 1 and (levels[0] > 15 or high < 240):
        raise _mask_error(levels, "shades from black to white")
    return _shade_rule()


def _has_void_label(levels: np.ndarray) -> bool:
    """Return whether the levels are small labels and 255."""
    return int(levels[-1]) == VOID and int(levels[-2]) <= RIM_LABELS


def _mask_error(levels: np.ndarray, expected: str) -> ImageError:
    return ImageError(f"mask: expected {expected}, got {plural(levels)} — {ADVICE}")
