"""Areas of hostile pictures: damaged and forged files, arrays and tensors that are no images."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from semattn.images import MAX_PIXELS, MIN_SIDE, Preprocessing, pixels_of, prepare, read

from .fuzzing import NAMES, NEITHER, Chance, Try, mutated, pick

FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI",
    "AVIF", "ICNS", "DDS", "MPO", "EPS", "MSP", "XBM", "IM", "QOI",
)  # fmt: skip
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
SIDES = ((16, 16), (40, 24), (17, 33), (1, 1), (15, 40), (1, 500), (600, 2), (64, 64))
WANTED = tuple(
    Preprocessing((24, size), (0.5,) * channels, (0.5,) * channels, crop_mode=mode)
    for size in (24, 40) for channels in (1, 3) for mode in ("center", "squash", "border")
)  # fmt: skip


def drawn(mode: str, size: tuple[int, int], rng: Chance) -> Image.Image:
    """A picture of noise."""
    noise = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    if mode in ("PA", "LA"):
        return (
            noise.convert("L").convert(mode) if mode == "LA" else noise.convert("P").convert(mode)
        )
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (size[1], size[0]), dtype=np.uint16))
    if mode == "LAB":
        return Image.frombytes("LAB", size, noise.tobytes())
    return noise.convert("L").convert(mode) if mode in ("I", "F") else noise.convert(mode)


def encoded(rng: Chance) -> Iterator[bytes]:
    """Files of every format that Pillow writes, of every mode that the format has."""
    for form in FORMATS:
        for mode in MODES:
            stream = io.BytesIO()
            try:
                drawn(mode, pick(rng, SIDES), rng).save(stream, form)
            except Exception:  # noqa: BLE001 — a mode that the format lacks
                continue
            yield stream.getvalue()
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [drawn("RGB", (20, 24), rng) for _ in range(3)]
        stream = io.BytesIO()
        frames[0].save(stream, form, save_all=True, append_images=frames[1:])
        yield stream.getvalue()
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        for exif in exifs(rng):
            stream = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    drawn("RGB", (24, 18), rng).save(stream, form, exif=exif)
                except Exception:  # noqa: BLE001 — Pillow itself refuses it
                    continue
            yield stream.getvalue()
    for size in ((1, 100_000), (100_000, 1), (16, 100_000), (65_535, 17)):
        stream = io.BytesIO()
        Image.new("L", size, 128).save(stream, "PNG")
        yield stream.getvalue()
    yield from (png(*size) for size in ((1, 2**31 - 1), (50_000, 50_000), (2**32 - 1, 2), (0, 5)))
    yield from (b"", b"\0", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"not one")


def exifs(rng: Chance) -> Iterator[bytes]:
    """EXIF that turns, and EXIF that is broken."""
    for turn in (1, 3, 6, 8, 0, 9, 77):
        made = Image.Exif()
        made[0x0112] = turn
        yield made.tobytes()
    whole = made.tobytes()
    yield b"Exif\0\0"
    yield b"Exif\0\0II*\0" + b"\xff" * 40
    for _ in range(20):
        yield mutated(whole, rng)
    text = struct.pack("<HHIHHII", 0x2A, 0, 8, 1, 0x0112, 2, 4) + b"six\0"
    yield b"Exif\0\0II" + text


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def resealed(data: bytes, rng: Chance) -> bytes:
    """A PNG with a chunk damaged and its checksum right, so that the damage reaches the decoder."""
    if not data.startswith(b"\x89PNG"):
        return data
    at, chunks = 8, []
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    which = int(rng.integers(len(chunks)))
    kind, body = chunks[which]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(mutated(zlib.decompressobj().decompress(body, 2**20), rng))
    else:
        body = mutated(body, rng) if body else rng.bytes(9)
    chunks[which] = kind, body
    return data[:8] + b"".join(
        struct.pack(">I", len(one)) + name + one + struct.pack(">I", zlib.crc32(name + one))
        for name, one in chunks
    )


def pictures(work: Path) -> Try:
    """Encoded pictures, whole, damaged and forged, from files and from memory."""
    every = tuple(encoded(np.random.default_rng(0)))

    def attempt(rng: Chance) -> None:
        data = pick(rng, every)
        kind = rng.random()
        if kind > 0.7:
            data = resealed(data, rng)
        elif kind > 0.1:
            data = mutated(data, rng, every)
        source: Any = data
        if rng.random() < 0.3:
            source = work / pick(rng, ("a.png", "b.jpg", "c", "d.tiff"))
            source.write_bytes(data)
        if rng.random() < 0.02:
            source = work / pick(rng, NAMES) if rng.random() < 0.5 else pick(rng, NAMES)
        if rng.random() < 0.5:
            made = read(source)
            assert made.mode == "RGB"
            assert min(made.size) >= MIN_SIDE
            assert made.width * made.height <= MAX_PIXELS
        else:
            check(prepare(source, pick(rng, WANTED)))

    return attempt


def check(made: Any) -> None:
    """Images are what they promise to be."""
    batch, _, height, width = made.inputs.shape
    assert made.pixels.shape == (batch, height, width, 3)
    assert made.pixels.dtype == np.uint8
    assert len(made.names) == batch
    assert bool(made.inputs.float().isfinite().all())


DTYPES = (
    "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64", "longdouble", "complex64", "bool", "object", "S3", "U2", "datetime64[s]",
    [("r", "u1"), ("g", "u1")], ">u2", ">f4",
)  # fmt: skip
TENSORS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.bool, torch.float8_e4m3fn, torch.uint16,
)  # fmt: skip
LEVELS = (0.0, 1.0, 255.0, 0.5, -1.0, 1e30, np.nan, np.inf, -np.inf)


def shape(rng: Chance) -> tuple[int, ...]:
    """A shape that is like an image's, or is not."""
    if rng.random() < 0.7:
        sides = tuple(int(one) for one in rng.choice([16, 17, 24, 32, 1, 0, 3], 2, p=P_SIDES))
        channels = pick(rng, (1, 3, 3, 3, 4, 2, 0, 5))
        made = pick(rng, ((channels, *sides), (*sides, channels), sides))
        return (pick(rng, (1, 2, 0)), *made) if rng.random() < 0.5 else made
    return tuple(int(one) for one in rng.integers(0, 20, int(rng.integers(0, 6))))


P_SIDES = (0.3, 0.2, 0.2, 0.15, 0.05, 0.05, 0.05)


def array(rng: Chance) -> Any:
    """An array of any type, shape, level and layout."""
    levels = np.asarray(rng.random(shape(rng)) * pick(rng, (1.0, 1.0, 1.0, 255.0, 65535.0, -3.0)))
    if levels.size and rng.random() < 0.15:
        levels.flat[int(rng.integers(levels.size))] = pick(rng, LEVELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = levels.astype(pick(rng, DTYPES))
        except (TypeError, ValueError):
            made = levels
    kind = rng.integers(8)
    if kind == 0 and made.ndim:
        made = made[::-1]
    elif kind == 1:
        made = np.asfortranarray(made)
    elif kind == 2:
        made = (
            np.broadcast_to(made[(0,) * made.ndim], made.shape) if made.size and made.ndim else made
        )
    elif kind == 3:
        made = np.ma.masked_array(made)
    return made


def tensor(rng: Chance) -> torch.Tensor:
    """A tensor of any type, shape, level and layout."""
    made = torch.from_numpy(rng.random(shape(rng))) * pick(rng, (1.0, 1.0, 255.0, -3.0, 1e30))
    if made.numel() and rng.random() < 0.15:
        made.view(-1)[int(rng.integers(made.numel()))] = pick(rng, LEVELS)
    made = made.to(torch.float32 if rng.random() < 0.4 else pick(rng, TENSORS))
    kind = rng.integers(10)
    if kind == 0 and made.ndim:
        made = made.transpose(0, -1)
    elif kind == 1 and made.is_floating_point() and made.ndim:
        made = made[..., ::2]
    elif kind == 2 and (made.is_floating_point() or made.is_complex()):
        made = made.requires_grad_()
    elif kind == 3:
        made = made.to("meta")
    elif kind == 4 and made.ndim and made.dtype == torch.float32:
        made = made.to_sparse()
    elif kind == 5:
        made = made.to(memory_format=torch.channels_last) if made.ndim == 4 else made
    return made


def anything(rng: Chance) -> Any:
    """Whatever a caller may hand over for an image."""
    kind = rng.integers(10)
    if kind < 4:
        return array(rng)
    if kind < 7:
        return tensor(rng)
    if kind == 7:
        return Image.new(pick(rng, MODES), (int(rng.integers(0, 40)), int(rng.integers(0, 40))))
    if kind == 8:
        return [pick(rng, (array, tensor))(rng) for _ in range(int(rng.integers(0, 4)))]
    return pick(rng, NEITHER)


def arrays(work: Path) -> Try:
    """Arrays, tensors, PIL images and what is none of them."""

    def attempt(rng: Chance) -> None:
        given, wanted = anything(rng), pick(rng, (*WANTED, None))
        kind = rng.random()
        if kind < 0.6:
            check(prepare(given, wanted))
        elif kind < 0.8:
            made = read(given)
            assert made.mode == "RGB"
        elif isinstance(given, torch.Tensor):
            made = pixels_of(given, wanted)
            assert made.dtype == np.uint8
            assert made.shape == (len(given), *given.shape[2:], 3)

    return attempt
