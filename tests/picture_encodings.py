"""One picture in many depths and types of levels, generated from a seed.

`picture(seed)` draws 8-bit levels from black to white; `encodings` maps names to functions that
give them as an array, a PIL image or a file. Each is to be read as the same pixels, to one level.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Source = Any  # what `semattn.images.read` takes
Writer = Callable[[np.ndarray, Path], Source]

encodings: dict[str, Writer] = {}
"""Of grey levels (H, W) uint8."""

colour_encodings: dict[str, Writer] = {}
"""Of colours (H, W, 3) uint8."""


def picture(seed: int, size: tuple[int, int] = (40, 52), colour: bool = False) -> np.ndarray:
    """Levels uint8 on a ramp with noise: (H, W), or (H, W, 3) in colour; 0 and 255 occur."""
    rng = np.random.default_rng(seed)
    height, width = size
    ramp = np.linspace(0, 1, width) ** rng.uniform(0.5, 2)
    shape = (height, width, 3) if colour else size
    ramp = ramp[None, :, None] if colour else ramp[None]
    levels = np.clip(255 * ramp + rng.normal(0, 12, shape), 0, 255).astype(np.uint8)
    levels[0, 0], levels[-1, -1] = 0, 255
    return levels


def in_bits(levels: np.ndarray, bits: int) -> np.ndarray:
    """8-bit levels as levels of `bits` bits, uint16."""
    return np.rint(levels * ((2**bits - 1) / 255)).astype(np.uint16)


def png(levels: np.ndarray, bits: int | None = None) -> bytes:
    """A PNG of 16 bits of levels (H, W) or (H, W, 3|4); `bits` is written as its sBIT chunk."""
    channels = 1 if levels.ndim == 2 else levels.shape[2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = levels.shape[:2]
    colour_type = {1: 0, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header),
        b"" if bits is None else chunk(b"sBIT", bytes([bits] * channels)),
        chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""),
    ])  # fmt: skip


def written(data: bytes, folder: Path, name: str) -> Path:
    """The file that holds some bytes."""
    path = folder / name
    path.write_bytes(data)
    return path


def saved(image: Image.Image, folder: Path, name: str, **options: Any) -> Path:
    """The file that an image was written to."""
    path = folder / name
    image.save(path, **options)
    return path


def _add(table: dict[str, Writer], name: str, write: Writer) -> None:
    table[name] = write


def _arrays(table: dict[str, Writer], dtype: str, bits: int) -> None:
    _add(table, f"{bits} bits in an array of {dtype}",
         lambda levels, folder: in_bits(levels, bits).astype(dtype))  # fmt: skip


for _table in (encodings, colour_encodings):
    _add(_table, "uint8", lambda levels, folder: levels)
    for _bits in (8, 10, 12, 14, 16):
        for _dtype in ("uint16", ">u2", "int32", "int64", "uint32"):
            _arrays(_table, _dtype, _bits)
    _add(_table, "floats", lambda levels, folder: levels / 255)
    _add(_table, "half floats", lambda levels, folder: (levels / 255).astype(np.float16))

for _bits in (8, 10, 12, 14, 16):
    _add(encodings, f"{_bits} bits in PIL's mode I", lambda levels, folder, bits=_bits:
         Image.fromarray(in_bits(levels, bits).astype(np.int32)))  # fmt: skip
    _add(encodings, f"{_bits} bits in PIL's mode I;16", lambda levels, folder, bits=_bits:
         Image.fromarray(in_bits(levels, bits)))  # fmt: skip
    _add(encodings, f"{_bits} bits in PIL's mode I;16B", lambda levels, folder, bits=_bits:
         Image.frombytes("I;16B", levels.shape[::-1], in_bits(levels, bits).astype(">u2").tobytes())
         )  # fmt: skip
    _add(encodings, f"{_bits} bits in a PNG of 16", lambda levels, folder, bits=_bits:
         saved(Image.fromarray(in_bits(levels, bits)), folder, f"grey-{bits}.png"))  # fmt: skip
    _add(encodings, f"{_bits} bits in a TIFF of 16", lambda levels, folder, bits=_bits:
         saved(Image.fromarray(in_bits(levels, bits)), folder, f"grey-{bits}.tiff"))  # fmt: skip
    _add(encodings, f"{_bits} bits in a TIFF of 32", lambda levels, folder, bits=_bits:
         saved(Image.fromarray(in_bits(levels, bits).astype(np.int32)), folder, f"wide-{bits}.tiff")
         )  # fmt: skip
    _add(colour_encodings, f"{_bits} bits in a colour PNG of 16", lambda levels, folder, bits=_bits:
         written(png(in_bits(levels, bits)), folder, f"colour-{bits}.png"))  # fmt: skip
    _add(colour_encodings, f"{_bits} bits in the bytes of a PNG", lambda levels, folder, bits=_bits:
         png(in_bits(levels, bits)))  # fmt: skip
    _add(colour_encodings, f"{_bits} bits in an opaque PNG", lambda levels, folder, bits=_bits:
         png(np.dstack([in_bits(levels, bits), np.full(levels.shape[:2], 65535)])))  # fmt: skip

_add(encodings, "PIL's mode F", lambda levels, folder:
     Image.fromarray((levels / 255).astype(np.float32)))  # fmt: skip
_add(encodings, "a float TIFF", lambda levels, folder:
     saved(Image.fromarray((levels / 255).astype(np.float32)), folder, "float.tiff"))  # fmt: skip
_add(encodings, "a PNG with 12 bits said, scaled", lambda levels, folder:
     written(png(in_bits(levels, 12) << 4, 12), folder, "scaled.png"))  # fmt: skip
_add(encodings, "a PNG with 12 bits said, not scaled", lambda levels, folder:
     written(png(in_bits(levels, 12), 12), folder, "unscaled.png"))  # fmt: skip
_add(encodings, "a TIFF with its greatest level", lambda levels, folder:
     saved(Image.fromarray(in_bits(levels, 12)), folder, "greatest.tiff", tiffinfo={281: 4095})
     )  # fmt: skip
