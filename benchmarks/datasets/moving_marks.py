"""Marks at a random place, scale and rotation, drawn on images, with the exact mask of each mark.

A mark is a layer of colours and opacity. Every image has its own place, scale and rotation; the
timestamp also has its own digits. Pure functions of pixels and of one random generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .objects_on_scenes.compose import Mask, Pixels

SCALES, ROTATION = (0.7, 1.4), 20.0  # range of the scale; greatest rotation, degrees
OVERSAMPLING = 2  # layers are drawn at this multiple of their size
WATERMARK_OPACITY = 0.5
MIN_OPACITY = 0.05  # opacity from which on a pixel belongs to the mark
DATES = ("2024", "2025", "2026")

Layer = Image.Image


def _canvas(width: int, height: int) -> tuple[Layer, ImageDraw.ImageDraw]:
    layer = Image.new("RGBA", (width * OVERSAMPLING, height * OVERSAMPLING), (0, 0, 0, 0))
    return layer, ImageDraw.Draw(layer)


def tag(_: np.random.Generator) -> Layer:
    """Return an opaque label with red letters."""
    layer, draw = _canvas(56, 28)
    box = (0, 0, layer.width - 1, layer.height - 1)
    draw.rectangle(box, fill=(250, 250, 245, 255), outline=(20, 20, 20, 255), width=3)
    draw.text((10, 7), "REC 24", fill=(200, 20, 20, 255), font_size=14 * OVERSAMPLING)
    return layer


def watermark(_: np.random.Generator) -> Layer:
    """Return half-transparent white letters."""
    layer, draw = _canvas(96, 24)
    white = (255, 255, 255, round(255 * WATERMARK_OPACITY))
    draw.text((4, 2), "SAMPLE", fill=white, font_size=24 * OVERSAMPLING, stroke_width=1)
    return layer


def logo(_: np.random.Generator) -> Layer:
    """Return an emblem with a transparent surrounding and half-transparent parts."""
    layer, draw = _canvas(40, 40)
    side = layer.width
    draw.ellipse((1, 1, side - 2, side - 2), fill=(20, 60, 140, 230), outline=(255, 210, 60, 255),
                 width=5)  # fmt: skip
    center, radius = side / 2, side * 0.36
    turns = np.deg2rad(-90 + 36 * np.arange(10))
    lengths = np.where(np.arange(10) % 2, 0.42, 1.0) * radius
    points = [(center + length * np.cos(turn), center + length * np.sin(turn))
              for turn, length in zip(turns, lengths, strict=True)]  # fmt: skip
    draw.polygon(points, fill=(255, 210, 60, 255))
    draw.rectangle((center - 6, center - 6, center + 6, center + 6), fill=(20, 60, 140, 180))
    return layer


def timestamp(rng: np.random.Generator) -> Layer:
    """Return a date and time of the image in outlined orange digits."""
    layer, draw = _canvas(112, 18)
    numbers = rng.integers((1, 1, 0, 0), (13, 29, 24, 60))
    month, day, hour, minute = numbers.tolist()
    text = f"{rng.choice(DATES)}-{month:02d}-{day:02d} {hour:02d}:{minute:02d}"
    draw.text((6, 2), text, fill=(255, 150, 30, 255), font_size=13 * OVERSAMPLING, stroke_width=2,
              stroke_fill=(30, 20, 10, 255))  # fmt: skip
    return layer


MARKS: dict[str, Callable[[np.random.Generator], Layer]] = {
    "tag": tag, "watermark": watermark, "logo": logo, "timestamp": timestamp,
}  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """Place of a mark: centre as fractions of the free space, scale, rotation in degrees."""

    x: float
    y: float
    scale: float
    rotation: float


def random_pose(rng: np.random.Generator) -> Pose:
    """Return a uniformly drawn place, a log-uniform scale and a uniform rotation."""
    x, y, turn = rng.random(3)
    scale = float(np.exp(rng.uniform(*np.log(SCALES))))
    return Pose(float(x), float(y), scale, float((2 * turn - 1) * ROTATION))


def draw_mark(image: Pixels, layer: Layer, pose: Pose) -> tuple[Pixels, Mask]:
    """Return an image (H, W, 3) with a mark that is wholly inside it, and the mask (H, W)."""
    height, width = image.shape[:2]
    premultiplied = np.asarray(layer.convert("RGBa"), np.float32) / 255
    factor = pose.scale / OVERSAMPLING
    center = ((layer.width - 1) / 2, (layer.height - 1) / 2)
    transform = cv2.getRotationMatrix2D(center, pose.rotation, factor)
    corners = np.array([[0, 0, 1], [layer.width, 0, 1], [0, layer.height, 1],
                        [layer.width, layer.height, 1]], float) @ transform.T  # fmt: skip
    low, high = corners.min(axis=0), corners.max(axis=0)
    free = np.maximum(0, np.array([width, height]) - 1 - (high - low))
    transform[:, 2] += np.array([pose.x, pose.y]) * free - low
    drawn = cv2.warpAffine(premultiplied, transform, (width, height), flags=cv2.INTER_LINEAR)
    opacity = drawn[..., 3:]
    mixed = image * (1 - opacity) + 255 * drawn[..., :3]
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8), opacity[..., 0] > MIN_OPACITY


def mark_image(image: Pixels, kind: str, rng: np.random.Generator) -> tuple[Pixels, Mask]:
    """Return an image with a mark of a kind at a random pose, and the mask of the mark."""
    return draw_mark(image, MARKS[kind](rng), random_pose(rng))


def choose_marked(labels: Sequence[int], rates: dict[int, float], seed: int) -> np.ndarray:
    """Return which images (n,) get a mark: the rounded `rates[label]` of the images of each label.

    Labels without a rate get none. The choice for a label does not depend on the other rates, and
    a higher rate marks the same images and more.
    """
    labels = np.asarray(labels)
    is_marked = np.zeros(len(labels), bool)
    for label, rate in rates.items():
        rows = np.flatnonzero(labels == label)
        order = np.random.default_rng((seed, 78, label)).permutation(rows)
        is_marked[order[: round(rate * len(rows))]] = True
    return is_marked
