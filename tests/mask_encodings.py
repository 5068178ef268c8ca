"""The mask of one object in many encodings, generated from a seed.

`shape(seed)` draws an object; `encodings` maps names to functions that write it into a folder and
return the file. `ambiguous` does the same for files with two readings, which are to be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

Writer = Callable[[np.ndarray, np.random.Generator, Path], Path]

encodings: dict[str, Writer] = {}
ambiguous: dict[str, Writer] = {}

FREE = 4  # pixels of background about the object at least: rims and blurs stay inside


def shape(seed: int, size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """An object (H, W) of bool: a union of boxes and discs away from the border."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    inside = np.zeros(size, bool)
    for _ in range(int(rng.integers(1, 4))):
        top = int(rng.integers(FREE, height - 20))
        left = int(rng.integers(FREE, width - 20))
        bottom = int(rng.integers(top + 8, height - FREE))
        right = int(rng.integers(left + 8, width - FREE))
        if rng.random() < 0.5:
            inside[top:bottom, left:right] = True
        else:
            vertical = (y - (top + bottom) / 2) / (bottom - top) * 2
            horizontal = (x - (left + right) / 2) / (right - left) * 2
            inside |= vertical**2 + horizontal**2 <= 1
    return inside


def photo(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A colour picture (H, W, 3) uint8 of noise on a gradient."""
    height, width = size
    ramp = np.linspace(40, 200, width)[None, :, None]
    return (ramp + rng.integers(-40, 55, (height, width, 3))).astype(np.uint8)


def rim(inside: np.ndarray) -> np.ndarray:
    """The pixels of background that touch the object."""
    grown = Image.fromarray(inside.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(3))
    return (np.asarray(grown) > 0) & ~inside


def saved(
    image: Image.Image, folder: Path, name: str, ending: str = "png", **options: object
) -> Path:
    """The file that an image was written to."""
    path = folder / f"{name}.{ending}"
    image.save(path, **options)
    return path


def encoding(name: str, table: dict[str, Writer] = encodings) -> Callable[[Writer], Writer]:
    """Enter a function under a name."""

    def enter(write: Writer) -> Writer:
        table[name] = write
        return write

    return enter


def _grey(name: str, value: int, dtype: type = np.uint8, ending: str = "png") -> None:
    @encoding(name)
    def write(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
        return saved(Image.fromarray((inside * value).astype(dtype)), folder, name, ending)


_grey("white on black", 255)
_grey("0 and 1", 1)
_grey("0 and 7", 7)
_grey("0 and 128", 128)
_grey("0 and 200", 200)
_grey("BMP", 255, ending="bmp")
_grey("PGM of 0 and 1", 1, ending="pgm")
_grey("TIFF", 255, ending="tiff")
_grey("GIF", 255, ending="gif")
_grey("16 bits of 0 and 65535", 65535, np.uint16)
_grey("16 bits of 0 and 255", 255, np.uint16)
_grey("16 bits of 0 and 1", 1, np.uint16)
_grey("16 bits of 0 and 1001", 1001, np.uint16, "tiff")
_grey("32 bits", 255, np.int32, "tiff")
_grey("floats of 0 and 1", 1, np.float32, "tiff")
_grey("floats of 0 and 255", 255, np.float32, "tiff")


@encoding("one bit")
def _one_bit(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(Image.fromarray(inside), folder, "one-bit")


@encoding("RGB, white on black")
def _rgb(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(Image.fromarray(np.dstack([inside * np.uint8(255)] * 3)), folder, "rgb")


@encoding("RGB, a colour on black")
def _coloured(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    colour = rng.integers(0, 256, 3).astype(np.uint8)
    colour[int(rng.integers(3))] = 200
    return saved(Image.fromarray(inside[..., None] * colour), folder, "coloured")


def _with_alpha(inside: np.ndarray, rng: np.random.Generator, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([photo(rng, inside.shape), alpha.astype(np.uint8)]))


@encoding("RGBA cut-out")
def _cut_out(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(_with_alpha(inside, rng, inside * 255), folder, "cut-out")


@encoding("RGBA cut-out, black where transparent")
def _cut_out_black(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    pixels = np.asarray(_with_alpha(inside, rng, inside * 255)) * inside[..., None]
    return saved(Image.fromarray(pixels), folder, "cut-out-black")


@encoding("RGBA cut-out of a dark object on white")
def _cut_out_dark(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    pixels = np.where(inside[..., None], np.uint8(20), np.uint8(255))
    stack = np.dstack([pixels] * 3 + [inside * np.uint8(255)])
    return saved(Image.fromarray(stack), folder, "cut-out-dark")


@encoding("RGBA overlay of half alpha")
def _overlay(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(_with_alpha(inside, rng, inside * 100), folder, "overlay")


@encoding("RGBA cut-out with soft edges")
def _soft_alpha(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(_with_alpha(inside, rng, soft(inside, rng)), folder, "soft-alpha")


@encoding("RGBA with alpha of 255")
def _opaque(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    white = inside * np.uint8(255)
    return saved(Image.fromarray(np.dstack([white] * 3 + [white | 255])), folder, "opaque")


@encoding("LA cut-out")
def _grey_cut_out(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    grey = Image.fromarray(photo(rng, inside.shape)).convert("L")
    alpha = Image.fromarray(inside * np.uint8(255))
    return saved(Image.merge("LA", (grey, alpha)), folder, "grey-cut-out")


@encoding("WEBP cut-out")
def _webp(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    image = _with_alpha(inside, rng, inside * 255)
    return saved(image, folder, "webp", "webp", lossless=True, exact=True)


def palette(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """An image of labels (H, W) drawn in colours (256, 3)."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(colours.astype(np.uint8).tobytes())
    return image


def voc_colours() -> np.ndarray:
    """The colours of Pascal VOC's palette, (256, 3)."""
    palette = np.zeros((256, 3), np.uint8)
    for label in range(256):
        for bit in range(8):
            for channel in range(3):
                palette[label, channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
    return palette


@encoding("palette of one label")
def _label(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    labels = inside * int(rng.integers(1, 21))
    return saved(palette(labels, voc_colours()), folder, "label")


@encoding("palette of any colours")
def _any_palette(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    colours = rng.integers(0, 256, (256, 3))
    return saved(palette(inside * int(rng.integers(1, 21)), colours), folder, "any-palette")


@encoding("palette with a void rim")
def _void(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    labels = inside * int(rng.integers(1, 21)) + rim(inside) * 255
    return saved(palette(labels, voc_colours()), folder, "void")


@encoding("palette of several labels with a void rim")
def _several(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    labels = inside * rng.integers(1, 21, inside.shape) + rim(inside) * 255
    return saved(palette(labels, voc_colours()), folder, "several")


@encoding("palette of black and white")
def _black_white(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    colours = np.zeros((256, 3))
    colours[1] = 255
    return saved(palette(inside * 1, colours), folder, "black-white")


@encoding("palette with a transparent background")
def _transparent(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    labels = inside * int(rng.integers(1, 21))
    return saved(palette(labels, voc_colours()), folder, "transparent", transparency=0)


@encoding("labels of one channel")
def _labels(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    labels = inside * rng.integers(1, 21, inside.shape)
    return saved(Image.fromarray(labels.astype(np.uint8)), folder, "labels")


@encoding("labels of one channel with a void rim")
def _labels_void(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    labels = inside * rng.integers(1, 21, inside.shape) + rim(inside) * 255
    return saved(Image.fromarray(labels.astype(np.uint8)), folder, "labels-void")


def soft(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shades of grey, (H, W) uint8, that are above half on the object alone."""
    noise = rng.integers(0, 128, inside.shape)
    edge = rim(inside) | rim(~inside)
    shades = np.where(edge, np.where(inside, 128 + noise, noise), np.where(inside, 255, 0))
    levels: np.ndarray = shades.astype(np.uint8)
    return levels


@encoding("shades of grey")
def _soft(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(Image.fromarray(soft(inside, rng)), folder, "soft")


@encoding("shades of grey in 16 bits")
def _soft_16(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(Image.fromarray(soft(inside, rng).astype(np.uint16) * 257), folder, "soft-16")


@encoding("floats in shades")
def _soft_float(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    shades = soft(inside, rng).astype(np.float32) / 255
    return saved(Image.fromarray(shades), folder, "soft-float", "tiff")


@encoding("JPEG")
def _jpeg(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    quality = int(rng.integers(75, 96))
    return saved(Image.fromarray(inside * np.uint8(255)), folder, "lossy", "jpg", quality=quality)


@encoding("JPEG in colour")
def _jpeg_rgb(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    white = np.dstack([inside * np.uint8(255)] * 3)
    quality = int(rng.integers(75, 96))
    return saved(Image.fromarray(white), folder, "lossy-rgb", "jpg", quality=quality)


@encoding("JPEG of a warm white")
def _jpeg_warm(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    white = (inside[..., None] * np.array([255, 250, 240])).astype(np.uint8)
    return saved(Image.fromarray(white), folder, "lossy-warm", "jpg", quality=90)


@encoding("shades of grey with a palette")
def _soft_palette(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(Image.fromarray(soft(inside, rng)).convert("P"), folder, "soft-palette")


@encoding("PNG of a JPEG")
def _png_of_jpeg(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    with Image.open(_jpeg(inside, rng, folder)) as lossy:
        return saved(lossy.convert("L"), folder, "png-of-lossy")


def _refused(name: str, low: int, high: int, third: int | None = None) -> None:
    @encoding(name, ambiguous)
    def write(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
        numbers = np.where(inside, high, low)
        if third is not None:
            numbers[rim(inside)] = third
        return saved(Image.fromarray(numbers.astype(np.uint8)), folder, "two-readings")


_refused("levels 3 and 7", 3, 7)
_refused("levels 0, 1 and 255", 0, 1, 255)
_refused("levels 0, 128 and 255", 0, 255, 128)
_refused("levels 1, 2 and 3", 2, 1, 3)
_refused("levels 30 and 220", 30, 220)


@encoding("several colours", ambiguous)
def _colours(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    pixels = np.where(inside[..., None], (200, 0, 0), (0, 0, 200))
    pixels[rim(inside)] = (0, 200, 0)
    return saved(Image.fromarray(pixels.astype(np.uint8)), folder, "colours")


@encoding("a photograph", ambiguous)
def _photograph(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(Image.fromarray(photo(rng, inside.shape)), folder, "photograph")


@encoding("palette of white, then black", ambiguous)
def _white_black(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    colours = np.zeros((256, 3))
    colours[0] = 255
    return saved(palette(inside * 1, colours), folder, "white-black")


@encoding("palette of void alone", ambiguous)
def _void_alone(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    return saved(palette(inside * 255, voc_colours()), folder, "void-alone")


@encoding("black and white under alpha", ambiguous)
def _two_masks(inside: np.ndarray, rng: np.random.Generator, folder: Path) -> Path:
    alpha = np.zeros(inside.shape, np.uint8)
    alpha[FREE:-FREE, FREE:-FREE] = 255
    white = inside * np.uint8(255)
    return saved(Image.fromarray(np.dstack([white] * 3 + [alpha])), folder, "two-masks")


arrays: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bool": lambda inside: inside,
    "0 and 1": lambda inside: inside.astype(np.int64),
    "0 and 1, uint8": lambda inside: inside.astype(np.uint8),
    "0 to 255": lambda inside: inside * np.uint8(255),
    "16 bits": lambda inside: inside * np.uint16(65535),
    "floats of 0 and 1": lambda inside: inside.astype(np.float64),
    "half floats": lambda inside: inside.astype(np.float16),
    "one channel": lambda inside: (inside * np.uint8(255))[..., None],
    "colour": lambda inside: np.dstack([inside * np.uint8(255)] * 3),
    "0 and 1, int8": lambda inside: inside.astype(np.int8),
}
"""Arrays that show an object."""
