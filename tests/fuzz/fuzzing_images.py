"""Fuzzing areas: damaged and forged image files, and arrays and tensors that are not images."""

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

from .fuzzing import NAMES, ODD_VALUES, Attempt, Generator, mutate, pick

FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "ICO", "PCX", "JPEG2000", "SGI",
    "AVIF", "ICNS", "DDS", "MPO", "EPS", "MSP", "XBM", "IM", "QOI",
)  # fmt: skip
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
SIDES = ((16, 16), (40, 24), (17, 33), (1, 1), (15, 40), (1, 500), (600, 2), (64, 64))
PREPROCESSINGS = tuple(
    Preprocessing((24, size), (0.5,) * channels, (0.5,) * channels, crop_mode=mode)
    for size in (24, 40) for channels in (1, 3) for mode in ("center", "squash", "border")
)  # fmt: skip


def noise_image(mode: str, size: tuple[int, int], rng: Generator) -> Image.Image:
    """Return an image of noise."""
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


def encoded_images(rng: Generator) -> Iterator[bytes]:
    """Yield files of every format that Pillow writes, in every mode of the format."""
    for form in FORMATS:
        for mode in MODES:
            stream = io.BytesIO()
            try:
                noise_image(mode, pick(rng, SIDES), rng).save(stream, form)
            except Exception:  # noqa: BLE001 — the format does not have this mode
                continue
            yield stream.getvalue()
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        frames = [noise_image("RGB", (20, 24), rng) for _ in range(3)]
        stream = io.BytesIO()
        frames[0].save(stream, form, save_all=True, append_images=frames[1:])
        yield stream.getvalue()
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        for exif in exif_blocks(rng):
            stream = io.BytesIO()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    noise_image("RGB", (24, 18), rng).save(stream, form, exif=exif)
                except Exception:  # noqa: BLE001 — Pillow refuses it
                    continue
            yield stream.getvalue()
    for size in ((1, 100_000), (100_000, 1), (16, 100_000), (65_535, 17)):
        stream = io.BytesIO()
        Image.new("L", size, 128).save(stream, "PNG")
        yield stream.getvalue()
    yield from (
        empty_png(*size) for size in ((1, 2**31 - 1), (50_000, 50_000), (2**32 - 1, 2), (0, 5))
    )
    yield from (b"", b"\0", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"not one")


def exif_blocks(rng: Generator) -> Iterator[bytes]:
    """Yield EXIF blocks with an orientation, and broken ones."""
    for turn in (1, 3, 6, 8, 0, 9, 77):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield exif.tobytes()
    valid_block = exif.tobytes()
    yield b"Exif\0\0"
    yield b"Exif\0\0II*\0" + b"\xff" * 40
    for _ in range(20):
        yield mutate(valid_block, rng)
    text = struct.pack("<HHIHHII", 0x2A, 0, 8, 1, 0x0112, 2, 4) + b"six\0"
    yield b"Exif\0\0II" + text


def empty_png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    fields = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", fields) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def damage_png(data: bytes, rng: Generator) -> bytes:
    """Return a PNG with a damaged chunk and a correct checksum, so that the chunk is decoded."""
    if not data.startswith(b"\x89PNG"):
        return data
    position, chunks = 8, []
    while position + 8 <= len(data):
        (length,) = struct.unpack(">I", data[position : position + 4])
        chunks.append(
            (data[position + 4 : position + 8], data[position + 8 : position + 8 + length])
        )
        position += 12 + length
    index = int(rng.integers(len(chunks)))
    kind, body = chunks[index]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(mutate(zlib.decompressobj().decompress(body, 2**20), rng))
    else:
        body = mutate(body, rng) if body else rng.bytes(9)
    chunks[index] = kind, body
    return data[:8] + b"".join(
        struct.pack(">I", len(chunk_body))
        + name
        + chunk_body
        + struct.pack(">I", zlib.crc32(name + chunk_body))
        for name, chunk_body in chunks
    )


def pictures(work: Path) -> Attempt:
    """Return the attempt on encoded images: valid, damaged, forged; from files or from memory."""
    originals = tuple(encoded_images(np.random.default_rng(0)))

    def attempt(rng: Generator) -> None:
        data = pick(rng, originals)
        kind = rng.random()
        if kind > 0.7:
            data = damage_png(data, rng)
        elif kind > 0.1:
            data = mutate(data, rng, originals)
        source: Any = data
        if rng.random() < 0.3:
            source = work / pick(rng, ("a.png", "b.jpg", "c", "d.tiff"))
            source.write_bytes(data)
        if rng.random() < 0.02:
            source = work / pick(rng, NAMES) if rng.random() < 0.5 else pick(rng, NAMES)
        if rng.random() < 0.5:
            image = read(source)
            assert image.mode == "RGB"
            assert min(image.size) >= MIN_SIDE
            assert image.width * image.height <= MAX_PIXELS
        else:
            check_images(prepare(source, pick(rng, PREPROCESSINGS)))

    return attempt


def check_images(images: Any) -> None:
    """Check shape and values of prepared images."""
    batch, _, height, width = images.inputs.shape
    assert images.pixels.shape == (batch, height, width, 3)
    assert images.pixels.dtype == np.uint8
    assert len(images.names) == batch
    assert bool(images.inputs.float().isfinite().all())


DTYPES = (
    "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "float16", "float32",
    "float64", "longdouble", "complex64", "bool", "object", "S3", "U2", "datetime64[s]",
    [("r", "u1"), ("g", "u1")], ">u2", ">f4",
)  # fmt: skip
TENSORS = (
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.bool, torch.float8_e4m3fn, torch.uint16,
)  # fmt: skip
SPECIAL_VALUES = (0.0, 1.0, 255.0, 0.5, -1.0, 1e30, np.nan, np.inf, -np.inf)


def random_shape(rng: Generator) -> tuple[int, ...]:
    """Return a shape that an image may have, or another one."""
    if rng.random() < 0.7:
        sides = tuple(int(side) for side in rng.choice([16, 17, 24, 32, 1, 0, 3], 2, p=P_SIDES))
        channels = pick(rng, (1, 3, 3, 3, 4, 2, 0, 5))
        shape = pick(rng, ((channels, *sides), (*sides, channels), sides))
        return (pick(rng, (1, 2, 0)), *shape) if rng.random() < 0.5 else shape
    return tuple(int(side) for side in rng.integers(0, 20, int(rng.integers(0, 6))))


P_SIDES = (0.3, 0.2, 0.2, 0.15, 0.05, 0.05, 0.05)


def random_array(rng: Generator) -> Any:
    """Return an array of random type, shape, values and layout."""
    levels = np.asarray(
        rng.random(random_shape(rng)) * pick(rng, (1.0, 1.0, 1.0, 255.0, 65535.0, -3.0))
    )
    if levels.size and rng.random() < 0.15:
        levels.flat[int(rng.integers(levels.size))] = pick(rng, SPECIAL_VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            values = levels.astype(pick(rng, DTYPES))
        except (TypeError, ValueError):
            values = levels
    kind = rng.integers(8)
    if kind == 0 and values.ndim:
        values = values[::-1]
    elif kind == 1:
        values = np.asfortranarray(values)
    elif kind == 2:
        values = (
            np.broadcast_to(values[(0,) * values.ndim], values.shape)
            if values.size and values.ndim
            else values
        )
    elif kind == 3:
        values = np.ma.masked_array(values)
    return values


def random_tensor(rng: Generator) -> torch.Tensor:
    """Return a tensor of random type, shape, values and layout."""
    values = torch.from_numpy(rng.random(random_shape(rng))) * pick(
        rng, (1.0, 1.0, 255.0, -3.0, 1e30)
    )
    if values.numel() and rng.random() < 0.15:
        values.view(-1)[int(rng.integers(values.numel()))] = pick(rng, SPECIAL_VALUES)
    values = values.to(torch.float32 if rng.random() < 0.4 else pick(rng, TENSORS))
    kind = rng.integers(10)
    if kind == 0 and values.ndim:
        values = values.transpose(0, -1)
    elif kind == 1 and values.is_floating_point() and values.ndim:
        values = values[..., ::2]
    elif kind == 2 and (values.is_floating_point() or values.is_complex()):
        values = values.requires_grad_()
    elif kind == 3:
        values = values.to("meta")
    elif kind == 4 and values.ndim and values.dtype == torch.float32:
        values = values.to_sparse()
    elif kind == 5:
        values = values.to(memory_format=torch.channels_last) if values.ndim == 4 else values
    return values


def random_image_input(rng: Generator) -> Any:
    """Return a random object that a caller may pass as an image."""
    kind = rng.integers(10)
    if kind < 4:
        return random_array(rng)
    if kind < 7:
        return random_tensor(rng)
    if kind == 7:
        return Image.new(pick(rng, MODES), (int(rng.integers(0, 40)), int(rng.integers(0, 40))))
    if kind == 8:
        return [
            pick(rng, (random_array, random_tensor))(rng) for _ in range(int(rng.integers(0, 4)))
        ]
    return pick(rng, ODD_VALUES)


def arrays(work: Path) -> Attempt:
    """Return the attempt on arrays, tensors, PIL images and other objects."""

    def attempt(rng: Generator) -> None:
        images, preprocessing = random_image_input(rng), pick(rng, (*PREPROCESSINGS, None))
        kind = rng.random()
        if kind < 0.6:
            check_images(prepare(images, preprocessing))
        elif kind < 0.8:
            image = read(images)
            assert image.mode == "RGB"
        elif isinstance(images, torch.Tensor):
            pixels = pixels_of(images, preprocessing)
            assert pixels.dtype == np.uint8
            assert pixels.shape == (len(images), *images.shape[2:], 3)

    return attempt
