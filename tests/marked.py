"""Small pictures of smooth noise in three classes, with a mark on part of one class."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from semattn.keypoints.local_features import LocalFeatures
from semattn.spurious import Mark, MarkDiscovery, MarkExample, Region, Skipped
from semattn.spurious.marks.mark import MarkedImage
from semattn.spurious.marks.template import MarkTemplate

NAMES = ("cat", "dog", "owl")
SIDE, EACH = 96, 12
MARKED = 9  # pictures of the first class with the mark


def stamp() -> Image.Image:
    """Return a label with letters and shapes."""
    label = Image.new("RGB", (44, 22), (250, 250, 240))
    draw = ImageDraw.Draw(label)
    draw.rectangle((0, 0, 43, 21), outline=(10, 10, 10), width=2)
    draw.text((4, 3), "R24", fill=(200, 10, 20), font_size=14)
    draw.polygon([(33, 4), (40, 10), (34, 17)], fill=(20, 40, 160))
    return label


def emblem() -> Image.Image:
    """Return a second label, with other letters and a disc."""
    label = Image.new("RGB", (40, 30), (30, 30, 30))
    draw = ImageDraw.Draw(label)
    draw.text((3, 4), "Q&8", fill=(255, 255, 0), font_size=18)
    draw.ellipse((28, 18, 38, 28), fill=(0, 255, 255))
    return label


def noise(rng: np.random.Generator, side: int = SIDE) -> Image.Image:
    """Return a smooth picture of noise."""
    coarse = rng.integers(40, 200, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def pairs(marked: int = MARKED, each: int = EACH) -> list[tuple[np.ndarray, int]]:
    """Return pairs (pixels, label) with the mark at random places on pictures of class 0."""
    rng = np.random.default_rng(0)
    pictures = []
    for index in range(each * len(NAMES)):
        picture = noise(rng)
        if index < marked:
            x, y = rng.integers(4, SIDE - 48, 2).tolist()
            picture.paste(stamp(), (x, y))
        pictures.append((np.asarray(picture), index // each))
    return pictures


def write_folder(folder: Path, **options: int) -> Path:
    """Write the pictures to one folder per class and return the parent."""
    for number, (pixels, label) in enumerate(pairs(**options)):
        class_folder = folder / NAMES[label]
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(class_folder / f"{number:02d}.png")
    return folder


def mark(name: str = "cat", examples: int = 3, significant: bool = True, **options: Any) -> Mark:
    """Return a mark with examples of two places each, the second one mirrored."""
    outline = np.array([[0, 0], [20, 0], [20, 10], [0, 10]], float)
    features = LocalFeatures(
        np.ones((5, 2), np.float32), np.ones(5, np.float32), np.ones(5, np.float32),
        np.full((5, 128), 128**-0.5, np.float32), np.zeros(5, int), 1,
    )  # fmt: skip
    places = tuple(
        Region(outline + shift, np.array([[1.0, 0, shift], [0, 1.0, shift]]), 9, is_mirrored)
        for shift, is_mirrored in ((8, False), (40, True))
    )
    shown = tuple(
        MarkExample(f"{name}/{number}.png", np.full((64, 80, 3), 90 + number, np.uint8), places)
        for number in range(examples)
    )
    values: dict[str, Any] = {
        "target": 0, "name": name, "n_inside": 9, "n_outside": 1, "inside": 0.75,
        "outside": 1 / 24, "p": 0.0004 if significant else 0.3, "significant": significant,
        "picture": np.full((20, 40, 3), 200, np.uint8), "examples": shown,
        "template": MarkTemplate(features, np.ones(5, np.float32), outline),
        "marked_images": (
            *(MarkedImage(f"{name}/{number}.png", name, True, places) for number in range(9)),
            MarkedImage("dog/0.png", "dog", False, places[:1]),
        ),
    }  # fmt: skip
    return Mark(**values | options)


def discovery(*marks: Mark, **options: Any) -> MarkDiscovery:
    """Return a search of three classes with these marks."""
    values: dict[str, Any] = {
        "marks": marks, "n_found": len(marks),
        "n_significant": sum(mark.significant for mark in marks),
        "same_scenes": (("cat/8.png", "cat/9.png"),), "images": 36,
        "classes": dict.fromkeys(NAMES, 12), "n_tests": 3,
        "alpha": 0.05, "skipped": (Skipped("cat/broken.png", "cannot be read"),),
        "notes": ("A note.",), "manifest": {"data": {"images": 37}},
    }  # fmt: skip
    return MarkDiscovery(**values | options)


def counted_mark(**options: Any) -> Mark:
    """Return a mark of images without classes."""
    return mark("", target=-1, inside=0.25, outside=math.nan, p=math.nan, n_outside=0,
                significant=False, **options)  # fmt: skip
