"""Pasting a cut-out on a scene, with the exact mask.

Pure functions of pixels and of one random generator; they know no files and no classes.
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
    """How large an object may be and how much of it must show.

    Parameters
    ----------
    scale : least and greatest longest side of the object, as a part of the frame's side
    visible : least part of the object inside the frame, of what shows of it in the middle
    enlarge : greatest enlargement of the cut-out, so that small ones are not told by their blur
    """

    scale: tuple[float, float] = (0.3, 0.9)
    visible: float = 0.5
    enlarge: float = 2.0


def crop_scene(scene: Image.Image, size: int, rng: np.random.Generator) -> Pixels:
    """A random square of the scene, at least 40 % of its shorter side, as (size, size, 3)."""
    shorter = min(scene.size)
    side = int(rng.integers(round(0.4 * shorter), shorter + 1))
    left = int(rng.integers(0, scene.width - side + 1))
    top = int(rng.integers(0, scene.height - side + 1))
    box = (left, top, left + side, top + side)
    return np.asarray(scene.resize((size, size), Image.Resampling.BICUBIC, box=box))


def trim(cutout: Image.Image) -> Image.Image:
    """The cut-out without its transparent border."""
    cutout = cutout.convert("RGBA")
    return cutout.crop(cutout.getchannel("A").getbbox())


def place(
    cutout: Image.Image, size: int, placement: Placement, rng: np.random.Generator
) -> tuple[Pixels, tuple[int, int]]:
    """Resize the cut-out and choose its top left corner.

    The centre is uniform over the whole frame, corners included; a place where too little of the
    object shows is drawn again. The pixels are RGBA, colours multiplied by alpha, so that no
    border of the cut-out's own background bleeds in.

    Returns
    -------
    layer : (h, w, 4)
    corner : (left, top), pixels, negative where the object is cut by the frame
    """
    longest = max(cutout.size)
    low, high = (part * size for part in placement.scale)
    high = max(low, min(high, placement.enlarge * longest))
    factor = rng.uniform(low, high) / longest
    width, height = (max(1, round(side * factor)) for side in cutout.size)
    layer = np.asarray(cutout.convert("RGBa").resize((width, height), Image.Resampling.BICUBIC))
    opaque = layer[..., 3] >= 128

    def shown(left: int, top: int) -> int:
        return int(opaque[_inside(top, height, size), _inside(left, width, size)].sum())

    enough = max(1.0, placement.visible * shown((size - width) // 2, (size - height) // 2))
    while True:
        x, y = rng.uniform(0, size, 2)
        corner = (round(x - width / 2), round(y - height / 2))
        if shown(*corner) >= enough:
            return layer, corner


def paste(background: Pixels, layer: Pixels, corner: tuple[int, int]) -> tuple[Pixels, Mask]:
    """The layer over the background, and where it covers at least half of a pixel.

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
    """The part of a layer of `length`, laid at `start`, that falls on a frame of `size`."""
    return slice(max(-start, 0), max(min(length, size - start), 0))
