"""Read any picture as upright 8-bit RGB, or say in one line why not.

Knows files, bytes, PIL images and arrays, and all that goes wrong with them. Knows nothing of
models, tensors or sizes beyond "too large" and "too small".
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from semattn.errors import ImageError, ShapeError

from .archives import TarMember
from .depth import colours_to_bytes, deep_colours, significant_bits, to_bytes

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray | TarMember"

MAX_PIXELS = 64_000_000  # of a file: its header is enough to refuse it
MIN_SIDE = 16  # pixels; a smaller picture shows nothing that a patch could hold

# What Pillow hands to another program to be drawn.
_PROGRAMS = ("EPS", "WMF", "EMF")

_ORIENTATION = 0x0112  # of EXIF
_TURNS = {
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
    """Any picture as an upright RGB image of 8 bits.

    The EXIF turn is applied where EXIF can be read, transparency is laid on white, palettes, grey
    and CMYK become RGB. Of an animation, the first frame counts. Levels of 10, 12, 14 and 16 bits
    are scaled to 8; where the file does not say how many count, the greatest level decides, and a
    warning says so.

    Parameters
    ----------
    source : path, encoded bytes, member of a tar archive, PIL image, or array (H, W), (H, W, 1),
        (H, W, 3), (H, W, 4) of bool, integers from 0 to 65535, or floats in [0, 1]
    max_pixels : the most pixels that a file may claim to have

    Raises
    ------
    ImageError
        A file that is missing, empty, damaged, too large or no picture; levels out of range; a
        side shorter than 16 pixels.
    ShapeError
        An array that is not shaped like a picture.

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
    """As `read`, with what was assumed as a text, "" for nothing, in place of a warning."""
    if isinstance(source, Image.Image):
        label, (picture, note) = "a PIL image", _rgb(source, "a PIL image")
    elif isinstance(source, np.ndarray):
        label, (picture, note) = "an array", _from_array(source)
    elif isinstance(source, bytes):
        label = f"{len(source)} bytes"
        picture, note = _decode(io.BytesIO(source), label, max_pixels)
    elif isinstance(source, TarMember):
        label = repr(str(source))
        picture, note = _decode(io.BytesIO(_bytes(source)), label, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        label = repr(os.fspath(source))
        picture, note = _decode(_existing(Path(source), label), label, max_pixels)
    else:
        raise TypeError(
            f"image: expected a path, bytes, a PIL image or an array, got "
            f"{type(source).__name__} — open or convert it first"
        )
    if min(picture.size) < MIN_SIDE:
        raise ImageError(
            f"image: expected at least {MIN_SIDE} pixels a side, got {label} of "
            f"{picture.width}x{picture.height} — give a larger picture"
        )
    return picture, note


def _bytes(member: TarMember) -> bytes:
    try:
        return member.read_bytes()
    except OSError as error:
        raise _damaged(repr(str(member)), error) from error


def _existing(path: Path, label: str) -> Path:
    try:
        path.stat()
    except FileNotFoundError:
        pass  # said below
    except (OSError, ValueError) as error:  # a folder that is closed, a loop, too long a name
        raise ImageError(
            f"image: expected a file that can be read, got {_short(label)} "
            f"({getattr(error, 'strerror', None) or error}) — check its name and permissions"
        ) from error
    if path.is_dir():
        raise ImageError(
            f"image: expected a picture file, got the folder {label} — give the files in it"
        )
    if not path.exists():
        raise ImageError(f"image: expected a file, got {label}, which does not exist — check it")
    if not path.is_file():
        raise ImageError(f"image: expected a plain file, got {label} — save the picture first")
    return path


def _decode(file: Path | io.BytesIO, label: str, max_pixels: int) -> Reading:
    size = file.stat().st_size if isinstance(file, Path) else len(file.getvalue())
    if size == 0:
        raise ImageError(f"image: expected a picture, got {label}, which is empty — copy it again")
    too_large = f"image: expected at most {max_pixels:,} pixels, got {label}"
    try:
        opened = Image.open(file)  # Pillow's own warning of large ones goes to the user
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{too_large}, which Pillow refuses ({error}) — shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"image: expected a picture, got {label}, which no decoder knows — "
            "save it as PNG or JPEG"
        ) from error
    except Exception as error:  # decoders raise anything on damaged bytes
        raise _damaged(label, error) from error
    with opened:
        if opened.format in _PROGRAMS:
            raise ImageError(
                f"image: expected pixels, got {label}, drawing instructions of {opened.format} — "
                "save it as PNG"
            )
        if opened.width * opened.height > max_pixels:
            raise ImageError(f"{too_large} of {opened.width}x{opened.height} — shrink it first")
        return _rgb(opened, label, file)


def _short(label: str) -> str:
    """A name, or the beginning of it."""
    return label if len(label) <= 200 else f"{label[:200]}…"


def _damaged(label: str, error: Exception) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ImageError(
        f"image: expected a whole picture, got {label}, which cannot be read ({reason}) — "
        "copy or save it again"
    )


def upright(image: Image.Image) -> Image.Image:
    """Return a PIL image, loaded, and turned as its EXIF data says."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, label: str, file: Path | io.BytesIO | None = None) -> Reading:
    """Upright 8-bit RGB of a PIL image, and a note; `file` is where it was opened from."""
    try:
        colours = None if file is None else deep_colours(image, file)
        if colours is not None and file is not None:
            bits = significant_bits(image, file, colours)
            levels, note = colours_to_bytes(colours, label, bits)
            turn = _TURNS.get(_orientation(image))
            picture = Image.fromarray(levels)
            picture = _colours(picture if turn is None else picture.transpose(turn))
        elif image.mode.startswith("I") or image.mode == "F":
            turned = upright(image)
            numbers = np.asarray(turned)
            bits = None if file is None else significant_bits(image, file, numbers)
            levels, note = to_bytes(numbers, label, bits)
            picture = Image.fromarray(levels).convert("RGB")
        else:
            picture, note = _colours(upright(image)), ""
    except ImageError:
        raise
    except Exception as error:  # decoders raise anything on damaged bytes
        raise _damaged(label, error) from error
    picture.info.clear()  # or it would be turned again, where it is read again
    return picture, note


def _colours(image: Image.Image) -> Image.Image:
    """8-bit RGB, another image than what came in."""
    if image.has_transparency_data:
        solid = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", solid.size, "white"), solid).convert("RGB")
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The number that EXIF has for how the camera was held; 1, upright, where EXIF is broken."""
    try:
        said = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 — the pixels are whole, and parsers raise anything
        return 1
    return said if isinstance(said, int) else 1


def _from_array(array: np.ndarray) -> Reading:
    if array.ndim not in (2, 3) or array.size == 0 or array.shape[2:] not in ((), (1,), (3,), (4,)):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        fix = "move the channels last" if channels_first else "give one picture"
        raise ShapeError(
            f"image: expected an array (H, W) or (H, W, 1|3|4), got {array.shape} — {fix}"
        )
    levels, note = colours_to_bytes(array, "an array")
    image = Image.fromarray(levels[..., 0] if array.shape[2:] == (1,) else levels)
    return _rgb(image, "an array")[0], note
