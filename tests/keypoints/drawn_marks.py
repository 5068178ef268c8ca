"""Small pictures of noise, marks drawn by PIL, and marks pasted by a known transform."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from semattn.keypoints import Keypoints
from semattn.keypoints.local_features import LocalFeatures, fine_sift, local_features
from semattn.keypoints.matching import apply

SIZE = (150, 200)  # height and width of a picture
MARK_SIZE = (34, 64)
OVERSAMPLING = 4  # marks are drawn at this multiple of their size, for smooth edges


def picture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return smooth noise of several scales, (H, W, 3) uint8."""
    rng = np.random.default_rng((seed, 26))
    total = np.zeros((*size, 3))
    for cell, weight in ((6, 30), (16, 50), (40, 60)):
        cells = rng.integers(0, 256, (size[0] // cell + 2, size[1] // cell + 2, 3)).astype(np.uint8)
        layer = Image.fromarray(cells).resize(size[::-1], Image.Resampling.BICUBIC)
        total += weight / 140 * np.asarray(layer, float)
    return total.round().astype(np.uint8)


def tag() -> Image.Image:
    """Return an opaque label with letters."""
    layer, draw = _canvas()
    box = (8, 8, layer.width - 9, layer.height - 9)  # the edge of a layer is not smooth
    draw.rectangle(box, fill=(250, 250, 245, 255), outline=(20, 20, 20, 255), width=8)
    draw.text((24, 24), "RG 24", fill=(200, 20, 20, 255), font_size=76)
    return layer.reduce(OVERSAMPLING)


def emblem() -> Image.Image:
    """Return a disc with bars, a triangle and spots."""
    layer, draw = _canvas()
    draw.ellipse((8, 8, 247, 127), fill=(20, 60, 140, 255), outline=(255, 210, 60, 255), width=10)
    draw.polygon([(48, 108), (96, 20), (124, 116)], fill=(255, 210, 60, 255))
    draw.ellipse((140, 24, 184, 64), fill=(240, 240, 240, 255))
    draw.rectangle((150, 84, 212, 100), fill=(220, 30, 30, 255))
    draw.polygon([(190, 40), (236, 60), (202, 76)], fill=(90, 220, 120, 255))
    draw.ellipse((84, 76, 108, 100), fill=(10, 10, 10, 255))
    return layer.reduce(OVERSAMPLING)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    size = MARK_SIZE[1] * OVERSAMPLING, MARK_SIZE[0] * OVERSAMPLING
    layer = Image.new("RGBA", size, (0, 0, 0, 0))
    return layer, ImageDraw.Draw(layer)


def placed(
    mark: Image.Image, center: tuple[float, float], scale: float = 1.0, degrees: float = 0.0,
    mirrored: bool = False,
) -> np.ndarray:  # fmt: skip
    """Return the transform (2, 3) that moves a mark's pixels to a place of a picture."""
    turn = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    middle = (np.array(mark.size) - 1) / 2
    return np.column_stack([linear, np.array(center) - linear @ middle])


def paste(pixels: np.ndarray, mark: Image.Image, transform: np.ndarray) -> np.ndarray:
    """Return a picture with a mark, moved by a transform of pixel centres at integers."""
    linear = np.linalg.inv(transform[:, :2])
    # PIL has the centre of the first pixel at (.5, .5).
    offset = 0.5 - linear @ (transform[:, 2] + 0.5)
    (a, b), (c, d) = linear.tolist()
    height, width = pixels.shape[:2]
    layer = mark.convert("RGBa").transform(
        (width, height), Image.Transform.AFFINE, (a, b, offset[0], c, d, offset[1]),
        Image.Resampling.BICUBIC,
    )  # fmt: skip
    drawn = np.asarray(layer, float)
    mixed = pixels * (1 - drawn[..., 3:] / 255) + drawn[..., :3]
    return mixed.clip(0, 255).round().astype(np.uint8)


def corners(mark: Image.Image, transform: np.ndarray) -> np.ndarray:
    """Return the corners (4, 2) of a mark after a transform."""
    x, y = mark.width - 1, mark.height - 1
    return apply(transform, np.array([[0.0, 0], [x, 0], [x, y], [0, y]]))


def features_of(pictures: list[np.ndarray], n_plain: int = 0) -> LocalFeatures:
    """Return the features of pictures, and of `n_plain` pictures without a mark."""
    keypoints = [fine_sift(pixels) for pixels in pictures]
    return local_features(keypoints + [plain_keypoints(90 + number) for number in range(n_plain)])


@cache
def plain_keypoints(seed: int) -> Keypoints:
    """Return the keypoints of a picture without a mark."""
    return fine_sift(picture(seed))


def random_descriptors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return descriptors of unit length without negative values."""
    values = np.abs(rng.normal(size=shape)).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)
