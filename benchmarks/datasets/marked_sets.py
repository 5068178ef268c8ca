"""Sets of images without repeated objects, with a moving mark on a part of one class.

Two sets: compositions in which every cut-out of all splits appears once (236 images of 13 classes),
and CIFAR-10 enlarged to 224 pixels (390 photographs of 10 classes). Fresh images are others of the
same kind: the same cut-outs on other scenes, and photographs of CIFAR-10's test split.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from . import cifar10
from .moving_marks import choose_marked, mark_image
from .objects_on_scenes import (
    CLASSES,
    NAMES,
    SCENES,
    Objects,
    ObjectsOnScenes,
    fetch as compositions,
)

DATASETS = ("compositions", "CIFAR-10")
SIDE = 224
PER_CLASS = 39  # photographs of a class of CIFAR-10
FRESH = 80  # fresh images; the first half shows the mark
FRESH_SEED = 1000  # added to the seed for fresh compositions
MARK_STREAM, FRESH_STREAM = 79, 80  # random streams of the poses of marks
PLANTED_NAMES = ("mammal", "fruit or vegetable", "bird", "flower")  # classes of 24 images or more


@dataclass(frozen=True, eq=False)
class MarkedSet:
    """Images (n, H, W, 3), classes (n,), masks (n, H, W) of their marks, which are marked (n,)."""

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    is_marked: np.ndarray


def planted_class(dataset: str, seed: int) -> int:
    """Return the class that gets the mark."""
    if dataset == "CIFAR-10":
        return seed % 10
    return NAMES.index(PLANTED_NAMES[seed % len(PLANTED_NAMES)])


@dataclass(frozen=True)
class MarkedCase:
    """A kind of mark on a part (`rate`) of the images of one class, which depends on the seed."""

    dataset: str
    kind: str
    rate: float
    seed: int

    @property
    def target(self) -> int:
        """Class with the mark."""
        return planted_class(self.dataset, self.seed)


def load_clean(dataset: str, seed: int) -> MarkedSet:
    """Return the images of a set without marks."""
    if dataset == "CIFAR-10":
        return _without_marks(*_photographs("train", PER_CLASS, seed))
    return _without_marks(*_compositions(seed))


def load_fresh(dataset: str, seed: int) -> MarkedSet:
    """Return `FRESH` images without marks that no search uses."""
    if dataset == "CIFAR-10":
        return _without_marks(*_photographs("test", FRESH // 10, seed))
    return _without_marks(*_compositions(seed + FRESH_SEED, FRESH))


def with_marks(clean: MarkedSet, kind: str, is_marked: np.ndarray, seed: int) -> MarkedSet:
    """Return a set with a mark of a kind on some images; image i has its pose in every call."""
    return _draw(clean, kind, is_marked, (seed, MARK_STREAM))


def draw_mark_of(
    row: int, image: np.ndarray, kind: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with the mark that `with_marks` draws on the image of a row, and its mask."""
    return mark_image(image, kind, np.random.default_rng((seed, MARK_STREAM, row)))


def plant(clean: MarkedSet, kind: str, rates: dict[int, float], seed: int) -> MarkedSet:
    """Return a set with a mark on a part of the images of each class of `rates`."""
    return with_marks(clean, kind, choose_marked(clean.labels.tolist(), rates, seed), seed)


def plant_fresh(fresh: MarkedSet, kind: str, seed: int) -> MarkedSet:
    """Return fresh images with a mark on the first half."""
    is_marked = np.arange(len(fresh.labels)) < len(fresh.labels) // 2
    return _draw(fresh, kind, is_marked, (seed, FRESH_STREAM))


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return a photograph of CIFAR-10 with `SIDE` pixels a side."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def hull(mask: np.ndarray) -> np.ndarray:
    """Return the convex hull of a mask (H, W) as a mask; empty if the mask is."""
    filled = np.zeros(mask.shape, np.uint8)
    points = np.argwhere(mask)[:, ::-1].astype(np.int32)
    if len(points):
        cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)


def _draw(clean: MarkedSet, kind: str, is_marked: np.ndarray, stream: tuple[int, int]) -> MarkedSet:
    images, masks = clean.images.copy(), clean.masks.copy()
    for row in np.flatnonzero(is_marked).tolist():
        rng = np.random.default_rng((*stream, row))
        images[row], masks[row] = mark_image(clean.images[row], kind, rng)
    return replace(clean, images=images, masks=masks, is_marked=is_marked)


def _without_marks(images: np.ndarray, labels: np.ndarray) -> MarkedSet:
    masks = np.zeros(images.shape[:3], bool)
    return MarkedSet(images, labels, masks, np.zeros(len(labels), bool))


def _compositions(seed: int, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return images in which every cut-out appears once, or some of them, and their classes."""
    catalog = {name: Objects(item.learned + item.validation + item.unseen, (), ())
               for name, item in CLASSES.items()}  # fmt: skip
    scenes = {"learned": tuple(path for paths in SCENES.values() for path in paths)}
    turns = max(len(item.learned) for item in catalog.values())
    dataset = ObjectsOnScenes(
        compositions.default_root(), count=turns * len(catalog), seed=seed, catalog=catalog,
        scenes=scenes,
    )  # fmt: skip
    indices = [
        index
        for index in range(len(dataset))
        if index // len(catalog) < len(dataset.objects[index % len(catalog)])
    ]
    if count is not None:
        indices = np.random.default_rng(seed).permutation(indices)[:count].tolist()
    items = [dataset[index] for index in indices]
    return np.stack([item.image for item in items]), np.array([item.label for item in items])


def _photographs(split: str, per_class: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return enlarged photographs of CIFAR-10, and their classes."""
    images, labels = cifar10.load(cifar10.default_root(), split)
    rng = np.random.default_rng(seed)
    rows = np.concatenate([
        rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in range(10)
    ])  # fmt: skip
    rows = rng.permutation(rows) if split == "test" else rows
    return np.stack([enlarged(image) for image in images[rows]]), labels[rows]
