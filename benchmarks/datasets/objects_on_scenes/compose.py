"""Paste a cut-out on a scene and return the exact mask.

Pure functions of pixels and of one random generator, without files and classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Placement:
    """Range of the object's size, and its least visible part.

    Parameters
    ----------
    scale : range of the longest side of the object, as a fraction of the frame's side
    visible : least part of the object inside the frame, relative to the same object in the middle
    enlarge : greatest enlargement of the cut-out, so that small ones are not blurred
    """

    scale: tuple[float, float] = (0.3, 0.9)
    visible: float = 0.5
    enlarge: float = 2.0


def crop_scene(scene: Image.Image, size: int, rng: np.random.Generator) -> Pixels:
    """Return a random square (size, size, 3) of at least 40 % of the scene's shorter side."""
    shorter = min(scene.size)
    side = int(rng.integers(round(0.4 * shorter), shorter + 1))
    left = int(rng.integers(0, scene.width - side + 1))
    top = int(rng.integers(0, scene.height - side + 1))
    box = (left, top, left + side, top + side)
    return np.asarray(scene.resize((size, size), Image.Resampling.BICUBIC, box=box))


def trim(cutout: Image.Image) -> Image.Image:
    """Return the cut-out without its transparent border."""
    cutout = cutout.convert("RGBA")
    return cutout.crop(cutout.getchannel("A").getbbox())


def place(
    cutout: Image.Image, size: int, placement: Placement, rng: np.random.Generator
) -> tuple[Pixels, tuple[int, int]]:
    """Resize the cut-out and choose its top left corner.

    The centre is uniform over the whole frame, corners included; a place where too little of the
    object is visible is drawn again. The pixels are RGBA with premultiplied alpha, so that the
    cut-out's own background does not show at its border.

    Returns
    -------
    layer : (h, w, 4)
    corner : (left, top), pixels, negative where the object is cut by the frame
    """
    longest = max(cutout.size)
    low, high = (fraction * size for fraction in placement.scale)
    high = max(low, min(high, placement.enlarge * longest))
    factor = rng.uniform(low, high) / longest
    width, height = (max(1, round(side * factor)) for side in cutout.size)
    layer = np.asarray(cutout.convert("RGBa").resize((width, height), Image.Resampling.BICUBIC))
    opaque = layer[..., 3] >= 128

    def num_visible(left: int, top: int) -> int:
        return int(opaque[_inside(top, height, size), _inside(left, width, size)].sum())

    min_visible = max(
        1.0, placement.visible * num_visible((size - width) // 2, (size - height) // 2)
    )
    while True:
        x, y = rng.uniform(0, size, 2)
        corner = (round(x - width / 2), round(y - height / 2))
        if num_visible(*corner) >= min_visible:
            return layer, corner


def paste(background: Pixels, layer: Pixels, corner: tuple[int, int]) -> tuple[Pixels, Mask]:
    """Return the layer over the background, and the mask of pixels that it covers by at least half.

    Parameters
    ----------
    background : (H, W, 3)
    layer : (h, w, 4), colours multiplied by alpha
    corner : (left, top) of the layer on the background, pixels; parts outside are cut off
    """
    image = background.copy()
    mask = np.zeros(background.shape[:2], dtype=bool)
    left, top = corner
    layer = layer[
        _inside(top, layer.shape[0], image.shape[0]), _inside(left, layer.shape[1], image.shape[1])
    ]
    rows = slice(max(top, 0), max(top, 0) + layer.shape[0])
    columns = slice(max(left, 0), max(left, 0) + layer.shape[1])
    alpha = layer[..., 3:].astype(np.float32) / 255
    mixed = layer[..., :3] + (1 - alpha) * image[rows, columns]
    image[rows, columns] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    mask[rows, columns] = layer[..., 3] >= 128
    return image, mask


def _inside(start: int, length: int, size: int) -> slice:
    """Return the slice of a layer of `length`, placed at `start`, inside a frame of `size`."""
    return slice(max(-start, 0), max(min(length, size - start), 0))
