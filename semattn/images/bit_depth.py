"""Conversion of levels of any bit depth to 8 bits: bool, 8 to 16 bits, floats.

Pictures of 10, 12 or 14 bits are stored in 16 bits, often without a record of the bit depth. It is
then inferred from the highest level, with a note. Levels that need a display window are refused.
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

BITS = (8, 10, 12, 14, 16)  # supported bit depths
ROUNDING = 1e-4  # tolerance of float levels outside [0, 1]

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # TIFF tags
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def to_bytes(levels: np.ndarray, label: str, bits: int | None = None) -> tuple[np.ndarray, str]:
    """Return levels as uint8, and a note on the assumed bit depth ("" for none).

    Parameters
    ----------
    levels : bool, integers from 0 to 65535, or floats in [0, 1]
    label : description of the picture, for errors
    bits : bit depth, if the file records it

    Raises
    ------
    ImageError
        For signed levels, levels above 65535, floats outside [0, 1], NaN.

    Examples
    --------
    >>> to_bytes(np.array([[0, 4095]], np.uint16), "an array")[0].tolist()
    [[0, 255]]
    """
    levels = np.asarray(levels)  # drops the mask of a masked array
    if levels.dtype == np.uint8:
        return np.ascontiguousarray(levels), ""
    if levels.dtype.kind == "b":
        return levels.astype(np.uint8) * np.uint8(255), ""
    if levels.dtype.kind == "f":
        return _floats_to_bytes(levels, label), ""
    if levels.dtype.kind not in "iu":
        raise ImageError(
            f"image: expected numbers, got {label} of {levels.dtype} — "
            "convert it to floats in [0, 1]"
        )
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 65535:
        raise _window_error("levels from 0 to 65535", levels, label)
    if high == 1 and bits is None:
        raise ImageError(
            f"image: expected levels up to 255, got {label} of {levels.dtype} with only 0 and 1 — "
            "pass x.astype(bool) for black and white"
        )
    filled = next(depth for depth in BITS if high < 2**depth)
    note = ""
    if bits is None or high >= 2**bits:
        bits = filled
        if filled < 16 and high > 0:
            note = _bits_note(filled)
    return np.rint(levels * (255 / (2**bits - 1))).astype(np.uint8), note


def colours_to_bytes(
    levels: np.ndarray, label: str, bits: int | None = None
) -> tuple[np.ndarray, str]:
    """Apply `to_bytes` to levels (H, W) or (H, W, C); convert alpha (channel 4) separately."""
    if levels.ndim == 2 or levels.shape[2] < 4 or levels.dtype == np.uint8:
        return to_bytes(levels, label, bits)
    colours, note = to_bytes(levels[..., :3], label, bits)
    alpha, _ = to_bytes(levels[..., 3], label)
    return np.dstack([colours, alpha]), note


def significant_bits(image: Image.Image, file: Path | io.BytesIO, levels: np.ndarray) -> int | None:
    """Return the bit depth that a PNG or TIFF file records; None without a record.

    By the standard, a PNG with fewer significant bits has levels that are scaled to the full depth.
    For files with unscaled levels, the recorded bits are returned.

    Parameters
    ----------
    image : the opened image
    file : the file of the image
    levels : integer levels as stored in the file
    """
    if image.format == "PNG":
        bits = _png_bits(file)
        if bits is None:
            return None
        spare = max(16 - bits, 0)
        shifted = levels.astype(np.uint32) >> spare
        scaled_forms = (shifted << spare, shifted << spare | shifted >> max(bits - spare, 0))
        is_scaled = any(np.array_equal(levels, scaled) for scaled in scaled_forms)
        return 16 if is_scaled or int(levels.max()) >= 2**bits else bits
    tags: Any = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return None
    depth = _first_int(tags.get(_BITS_PER_SAMPLE))
    if depth is not None and 8 < depth < 16:
        return depth
    greatest = _first_int(tags.get(_MAX_SAMPLE_VALUE))
    return next((bits for bits in BITS if greatest == 2**bits - 1), None)


def deep_colours(image: Image.Image, file: Path | io.BytesIO) -> np.ndarray | None:
    """Return the levels (H, W, C), uint16, of dark 16-bit colours; None for other files.

    Pillow reads only the high byte of each level, which is enough for pictures that use all 16
    bits. The low bytes are read by opening the file again with swapped byte order.

    Parameters
    ----------
    image : the opened image, not loaded yet
    file : the file of the image
    """
    # A tile is (codec, extents, offset, arguments), in older releases of Pillow without names.
    raw_modes = {_raw_mode_of(arguments) for *_, arguments in getattr(image, "tile", [])}
    if len(raw_modes) != 1 or (raw_mode := raw_modes.pop()) not in _SWAPPED_BYTE_ORDER:
        return None
    high = np.asarray(image)
    if int(high[..., :3].max()) >= 2 ** (BITS[-2] - 8):
        return None
    with Image.open(file) as reopened:
        reopened.tile = [_with_swapped_order(tile, raw_mode) for tile in reopened.tile]
        low = np.asarray(reopened)
    levels: np.ndarray = high.astype(np.uint16) << 8 | low
    return levels


_SWAPPED_BYTE_ORDER = {
    "RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B",
    "RGBA;16B": "RGBA;16L", "RGBA;16L": "RGBA;16B",
}  # fmt: skip
for _mode in ("RGB", "RGBA"):
    _SWAPPED_BYTE_ORDER[f"{_mode};16N"] = f"{_mode};16{'B' if sys.byteorder == 'little' else 'L'}"


def _raw_mode_of(args: Any) -> str:
    return str(args[0] if isinstance(args, tuple) else args)


def _with_swapped_order(tile: Any, form: str) -> Any:
    other, arguments = _SWAPPED_BYTE_ORDER[form], tile[3]
    arguments = (other, *arguments[1:]) if isinstance(arguments, tuple) else other
    is_named = hasattr(tile, "_replace")
    return tile._replace(args=arguments) if is_named else (*tile[:3], arguments)


def _png_bits(file: Path | io.BytesIO) -> int | None:
    """Return the highest value in the sBIT chunk, which precedes the pixels; None without one."""
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


def _first_int(value: Any) -> int | None:
    value = value[0] if isinstance(value, tuple) and value else value
    return int(value) if isinstance(value, (int, float)) else None


def _bits_note(bits: int) -> str:
    return (
        f"Levels up to {2**bits - 1} in a wider type are read as {bits} bits, with white at "
        f"{2**bits - 1}. If white is another level, divide the array by it."
    )


def _floats_to_bytes(levels: np.ndarray, label: str) -> np.ndarray:
    if not np.isfinite(levels).all():
        raise ImageError(
            f"image: expected finite levels, got {label} with NaN or inf — remove them"
        )
    low, high = levels.min(), levels.max()
    if low < -ROUNDING or high > 255 + ROUNDING:
        raise _window_error("floats in [0, 1]", levels, label)
    if high > 1 + ROUNDING:
        raise ImageError(
            f"image: expected floats in [0, 1], got {label} in [{low:.4g}, {high:.4g}] — "
            "divide by 255 (or by the level of white), or pass a normalised picture as a tensor "
            "(C, H, W)"
        )
    return np.rint(levels.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)


def _window_error(expected: str, levels: np.ndarray, label: str) -> ImageError:
    low, high = levels.min(), levels.max()
    return ImageError(
        f"image: expected {expected}, got {label} of {levels.dtype} in [{low:.6g}, {high:.6g}] — "
        "choose a display window, and pass np.clip((x.astype(float) - low) / (high - low), "
        "0, 1); or pass a normalised picture as a tensor (C, H, W)"
    )
