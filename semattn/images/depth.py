"""Reduce levels of any depth to 8 bits: bool, 8 to 16 bits, floats; refuse what needs a window.

Pictures of 10, 12 or 14 bits are kept in 16, mostly without a word in the file. Where nothing says
how many bits count, the greatest level decides, and a note says so.
"""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semattn.errors import ImageError

BITS = (8, 10, 12, 14, 16)  # that levels in a wider type may fill
ROUNDING = 1e-4  # by how much float levels may leave [0, 1]

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # of TIFF
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def to_bytes(levels: np.ndarray, label: str, bits: int | None = None) -> tuple[np.ndarray, str]:
    """Return levels as uint8, and a note on the bits that were assumed, "" for none.

    Parameters
    ----------
    levels : bool, integers from 0 to 65535, or floats in [0, 1]
    label : what the levels are of, for errors
    bits : how many bits count, where the file says so

    Raises
    ------
    ImageError
        For signed levels, levels above 65535, floats outside [0, 1], NaN.

    Examples
    --------
    >>> to_bytes(np.array([[0, 4095]], np.uint16), "an array")[0].tolist()
    [[0, 255]]
    """
    levels = np.asarray(levels)  # without a mask
    if levels.dtype == np.uint8:
        return np.ascontiguousarray(levels), ""
    if levels.dtype.kind == "b":
        return levels.astype(np.uint8) * np.uint8(255), ""
    if levels.dtype.kind == "f":
        return _floats(levels, label), ""
    if levels.dtype.kind not in "iu":
        raise ImageError(
            f"image: expected numbers, got {label} of {levels.dtype} — "
            "convert it to floats in [0, 1]"
        )
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise _window_needed("levels from 0 to 65535", levels, label)
    if high == 1 and bits is None:
        raise ImageError(
            f"image: expected levels up to 255, got {label} of {levels.dtype} with 0 and 1 alone — "
            "pass x.astype(bool) for black and white"
        )
    filled = next(known for known in BITS if high < 2**known)
    note = ""
    if bits is None or high >= 2**bits:
        bits = filled
        if filled < 16 and high > 0:
            note = _bits_note(filled)
    return np.rint(levels * (255 / (2**bits - 1))).astype(np.uint8), note


def colours_to_bytes(
    levels: np.ndarray, label: str, bits: int | None = None
) -> tuple[np.ndarray, str]:
    """As `to_bytes`, of levels (H, W) or (H, W, C); alpha, the fourth channel, is read alone."""
    if levels.ndim == 2 or levels.shape[2] < 4 or levels.dtype == np.uint8:
        return to_bytes(levels, label, bits)
    colours, note = to_bytes(levels[..., :3], label, bits)
    alpha, _ = to_bytes(levels[..., 3], label)
    return np.dstack([colours, alpha]), note


def significant_bits(image: Image.Image, file: Path | io.BytesIO, levels: np.ndarray) -> int | None:
    """Return how many bits of each level count, where a PNG or TIFF file says so.

    By the standard, a PNG of fewer significant bits has its levels scaled to the full depth. Files
    whose levels are not scaled break it; their bits are taken as they are.

    Parameters
    ----------
    image : an opened file
    file : where it was opened from
    levels : integers, as they stand in the file
    """
    if image.format == "PNG":
        bits = _png_bits(file)
        if bits is None:
            return None
        spare = max(16 - bits, 0)
        short = levels.astype(np.uint32) >> spare
        forms = (short << spare, short << spare | short >> max(bits - spare, 0))
        is_scaled = any(np.array_equal(levels, form) for form in forms)
        return 16 if is_scaled or int(levels.max()) >= 2**bits else bits
    tags: Any = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    depth = _first(tags.get(_BITS_PER_SAMPLE))
    if depth is not None and 8 < depth < 16:
        return depth
    greatest = _first(tags.get(_MAX_SAMPLE_VALUE))
    return next((bits for bits in BITS if greatest == 2**bits - 1), None)


def deep_colours(image: Image.Image, file: Path | io.BytesIO) -> np.ndarray | None:
    """Return the levels (H, W, C), uint16, of 16-bit colours that are dark; None for other files.

    Pillow keeps the high byte of each level alone, which is enough for pictures that use all 16
    bits. Read again in the other order of bytes, the same file gives the low bytes.

    Parameters
    ----------
    image : an opened file, not loaded yet
    file : where it was opened from
    """
    tiles = getattr(image, "tile", [])
    forms = {_raw_mode(tile.args) for tile in tiles}
    if len(forms) != 1 or (form := forms.pop()) not in _OTHER_ORDER:
        return None
    high = np.asarray(image)
    if int(high[..., :3].max()) >= 2 ** (BITS[-2] - 8):
        return None
    with Image.open(file) as again:
        again.tile = [tile._replace(args=_with_mode(tile.args, form)) for tile in again.tile]
        low = np.asarray(again)
    levels: np.ndarray = high.astype(np.uint16) << 8 | low
    return levels


_OTHER_ORDER = {
    "RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B",
}  # fmt: skip
for _mode in ("RGB", "RGBA"):
    _OTHER_ORDER[f"{_mode};16N"] = f"{_mode};16{'B' if sys.byteorder == 'little' else 'L'}"


def _raw_mode(args: Any) -> str:
    return str(args[0] if isinstance(args, tuple) else args)


def _with_mode(args: Any, form: str) -> Any:
    other = _OTHER_ORDER[form]
    return (other, *args[1:]) if isinstance(args, tuple) else other


def _png_bits(file: Path | io.BytesIO) -> int | None:
    """The greatest number in the sBIT chunk, which comes before the pixels; None without one."""
    with file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getvalue()) as stream:
        stream.seek(len(_SIGNATURE))
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"IDAT":
                return None
            if kind == b"sBIT":
                return max(stream.read(min(length, 4)), default=None)
            stream.seek(length + 4, 1)
    return None


def _first(value: Any) -> int | None:
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, (int, float)) else None


def _bits_note(bits: int) -> str:
    return (
        f"Levels up to {2**bits - 1} in a wider type are read as {bits} bits, white is "
        f"{2**bits - 1}: where it is not, divide the array by its white."
    )


def _floats(levels: np.ndarray, label: str) -> np.ndarray:
    if not np.isfinite(levels).all():
        raise ImageError(f"image: expected finite levels, got {label} with NaN or inf — clean it")
    low, high = levels.min(), levels.max()
    if low < -ROUNDING or high > 255 + ROUNDING:
        raise _window_needed("floats in [0, 1]", levels, label)
    if high > 1 + ROUNDING:
        raise ImageError(
            f"image: expected floats in [0, 1], got {label} in [{low:.4g}, {high:.4g}] — "
            "divide by 255 (or by the level of white), or pass a normalised picture as a tensor "
            "(C, H, W)"
        )
    return np.rint(levels.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)


def _window_needed(expected: str, levels: np.ndarray, label: str) -> ImageError:
    low, high = levels.min(), levels.max()
    return ImageError(
        f"image: expected {expected}, got {label} of {levels.dtype} in [{low:.6g}, {high:.6g}] — "
        "choose the window to be seen, and pass np.clip((x.astype(float) - low) / (high - low), "
        "0, 1); or pass a normalised picture as a tensor (C, H, W)"
    )
