"""Reading of pictures as upright 8-bit RGB, from files, bytes, PIL images and arrays.

Each error has a one-line message. This module knows nothing of models and tensors.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError, ShapeError
from ..utils.remote_path import StoredFile, is_stored_file
from .bit_depth import colours_to_bytes, deep_colours, significant_bits, to_bytes

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | StoredFile"

MAX_PIXELS = 64_000_000  # limit for files, checked in the header
MIN_SIDE = 16  # pixels; smaller pictures are too small for a patch

# Formats that Pillow draws with another program.
_VECTOR_FORMATS = ("EPS", "WMF", "EMF")

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Reading: TypeAlias = tuple[Image.Image, str]  # a picture, and a note on what was assumed, or ""


def read(source: Picture, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture as an upright 8-bit RGB image.

    The EXIF orientation is applied. Transparent pixels are blended with white. Palettes, grey and
    CMYK are converted to RGB. Only the first frame of an animation is read. Levels of 10, 12, 14
    and 16 bits are scaled to 8; if the file does not record the bit depth, it is inferred from the
    highest level, with a warning.

    Parameters
    ----------
    source : path, remote file, encoded bytes, member of a tar archive, PIL image, or array (H, W),
        (H, W, 1), (H, W, 3), (H, W, 4) of bool, integers from 0 to 65535, or floats in [0, 1]
    max_pixels : maximum number of pixels of a file

    Raises
    ------
    ImageError
        For a file that is missing, empty, damaged, too large or not a picture; for levels out of
        range, and sides shorter than 16 pixels.
    ShapeError
        For an array without the shape of a picture.

    Examples
    --------
    >>> read(np.full((16, 20), 65535, dtype=np.uint16)).getpixel((0, 0))
    (255, 255, 255)
    """
    picture, note = read_with_note(source, max_pixels=max_pixels)
    if note:
        warnings.warn(note, stacklevel=2)
    return picture


def read_with_note(source: Picture, *, max_pixels: int = MAX_PIXELS) -> Reading:
    """Read a picture as `read` does, and return the warning as a note ("" for none)."""
    if isinstance(source, Image.Image):
        label, (picture, note) = "a PIL image", _to_rgb(source, "a PIL image")
    elif isinstance(source, np.ndarray):
        label, (picture, note) = "an array", _from_array(source)
    elif isinstance(source, bytes):
        label = f"{len(source)} bytes"
        picture, note = _decode(io.BytesIO(source), label, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        label = repr(os.fspath(source))
        picture, note = _decode(_check_file(Path(source), label), label, max_pixels)
    elif is_stored_file(source):
        label = repr(str(source))
        picture, note = _decode(io.BytesIO(_read_stored(source, label)), label, max_pixels)
    else:
        raise TypeError(
            f"image: expected a path, bytes, a PIL image or an array, got "
            f"{type(source).__name__} — open or convert it first"
        )
    if min(picture.size) < MIN_SIDE:
        raise ImageError(
            f"image: expected at least {MIN_SIDE} pixels per side, got {label} of "
            f"{picture.width}x{picture.height} — give a larger picture"
        )
    return picture, note


def _read_stored(source: StoredFile, label: str) -> bytes:
    try:
        return source.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(
            f"image: expected a file, got {_shorten(label)}, which does not exist — check the path"
        ) from error
    except OSError as error:
        raise _damaged_error(_shorten(label), error) from error


def _check_file(path: Path, label: str) -> Path:
    try:
        path.stat()
    except FileNotFoundError:
        pass  # raised below
    except (OSError, ValueError) as error:  # no permission, a circular link, too long a name
        raise ImageError(
            f"image: expected a readable file, got {_shorten(label)} "
            f"({getattr(error, 'strerror', None) or error}) — check its name and permissions"
        ) from error
    if path.is_dir():
        raise ImageError(
            f"image: expected a picture file, got the folder {label} — give the files in it"
        )
    if not path.exists():
        raise ImageError(
            f"image: expected a file, got {label}, which does not exist — check the path"
        )
    if not path.is_file():
        raise ImageError(f"image: expected a regular file, got {label} — save the picture first")
    return path


def _decode(file: Path | io.BytesIO, label: str, max_pixels: int) -> Reading:
    size = file.stat().st_size if isinstance(file, Path) else len(file.getvalue())
    if size == 0:
        raise ImageError(f"image: expected a picture, got {label}, which is empty — copy it again")
    too_large = f"image: expected at most {max_pixels:,} pixels, got {label}"
    try:
        opened = Image.open(file)  # Pillow's warning of large images is passed to the user
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{too_large}, which Pillow refuses ({error}) — shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"image: expected a picture, got {label}, whose format is unknown — "
            "save it as PNG or JPEG"
        ) from error
    except Exception as error:  # decoders raise any error on damaged files
        raise _damaged_error(label, error) from error
    with opened:
        if opened.format in _VECTOR_FORMATS:
            raise ImageError(
                f"image: expected pixels, got {label}, a vector image in {opened.format} — "
                "save it as PNG"
            )
        if opened.width * opened.height > max_pixels:
            raise ImageError(f"{too_large} of {opened.width}x{opened.height} — shrink it first")
        return _to_rgb(opened, label, file)


def _shorten(label: str) -> str:
    """Return the first 200 characters of a text."""
    return label if len(label) <= 200 else f"{label[:200]}…"


def _damaged_error(label: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(
        f"image: expected a complete picture, got {label}, which cannot be read ({reason}) — "
        "copy or save it again"
    )


def apply_orientation(image: Image.Image) -> Image.Image:
    """Load a PIL image and apply its EXIF orientation."""
    image.load()
    transpose = _TRANSPOSES.get(_exif_orientation(image))
    return image if transpose is None else image.transpose(transpose)


def _to_rgb(image: Image.Image, label: str, file: Path | io.BytesIO | None = None) -> Reading:
    """Convert a PIL image, opened from `file`, to upright 8-bit RGB; return it with a note."""
    try:
        colours = None if file is None else deep_colours(image, file)
        if colours is not None and file is not None:
            bits = significant_bits(image, file, colours)
            levels, note = colours_to_bytes(colours, label, bits)
            transpose = _TRANSPOSES.get(_exif_orientation(image))
            picture = Image.fromarray(levels)
            picture = _without_alpha(picture if transpose is None else picture.transpose(transpose))
        elif image.mode.startswith("I") or image.mode == "F":
            turned = apply_orientation(image)
            numbers = np.asarray(turned)
            bits = None if file is None else significant_bits(image, file, numbers)
            levels, note = to_bytes(numbers, label, bits)
            picture = Image.fromarray(levels).convert("RGB")
        else:
            picture, note = _without_alpha(apply_orientation(image)), ""
    except ImageError:
        raise
    except Exception as error:  # decoders raise any error on damaged files
        raise _damaged_error(label, error) from error
    picture.info.clear()  # otherwise the orientation would be applied again in a second read
    return picture, note


def _without_alpha(image: Image.Image) -> Image.Image:
    """Convert to a new 8-bit RGB image, with transparent pixels blended with white."""
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image.convert("RGB")


def _exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) if EXIF is missing or damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 — the parser raises any error, and the pixels are intact
        return 1
    return orientation if isinstance(orientation, int) else 1


def _from_array(array: np.ndarray) -> Reading:
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (1,), (3,), (4,)):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        fix = "move the channels last" if channels_first else "give one picture"
        raise ShapeError(
            f"image: expected an array (H, W) or (H, W, 1|3|4), got {array.shape} — {fix}"
        )
    levels, note = colours_to_bytes(array, "an array")
    image = Image.fromarray(levels[..., 0] if array.shape[2:] == (1,) else levels)
    return _to_rgb(image, "an array")[0], note
