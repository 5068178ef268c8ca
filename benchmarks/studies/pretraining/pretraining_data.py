"""Data of `bench_pretraining`: images to learn from, and labelled images for the probes.

CIFAR-10 by default, or a folder in ImageNet's layout (FOLDER/train/CLASS/…, FOLDER/val/CLASS/…).
Smoke tests use synthetic images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semattn.images import read
from semattn.pretraining import readable
from semattn.pretraining.data import middle

from ...datasets import cifar10
from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root as objects_root

ENLARGEMENT = 1.5  # ratio of a synthetic image's side to the input's, so that crops enlarge little


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images of the input size, (n, H, W, 3) uint8, and their classes (n,)."""

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Data:
    """Unlabelled training images, and labelled images to train and to test the probes."""

    pictures: Sequence[Any]
    train: Labelled
    test: Labelled
    about: dict[str, Any]


def cifar(*, size: int, pictures: int, train: int, test: int, split: str) -> Data:
    """Return resized CIFAR-10; `split` is "validation" during development and "test" once.

    The training images are the first of the training split, followed by those that train the
    probes; the validation images are its last.
    """
    images, labels = cifar10.load(cifar10.default_root(), "train")
    if pictures + train + test > len(images):
        raise ValueError(
            f"pictures: expected {len(images) - train - test} at most, with {train + test} images "
            f"for the probes, got {pictures}"
        )
    trained = slice(pictures, pictures + train)
    if split == "test":
        test_images, test_labels = (
            values[:test] for values in cifar10.load(cifar10.default_root(), "test")
        )
    else:
        test_images, test_labels = images[-test:], labels[-test:]
    about = {"data": "CIFAR-10", "split": split, "pictures": pictures, "train": train, "test": test}
    return Data(
        _resize(images[:pictures], size),
        Labelled(_resize(images[trained], size), labels[trained]),
        Labelled(_resize(test_images, size), test_labels),
        about,
    )


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    """Return images (n, side, side, 3) at another size, by bicubic interpolation."""
    resized = [
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in images
    ]
    return np.stack([np.asarray(image) for image in resized])


def _label_centre_crops(images: np.ndarray, labels: np.ndarray, size: int) -> Labelled:
    return Labelled(np.stack([_centre_crop(picture, size) for picture in images]), labels)


def image_folder(root: Path, *, size: int, train: int, test: int) -> Data:
    """Load a folder in ImageNet's layout, with at most `train` and `test` images for the probes."""
    pictures, _ = readable(root / "train")
    test_paths, _ = readable(root / "val")
    names = sorted({path.relative_to(root / "train").parts[0] for path in pictures})
    class_index = {name: index for index, name in enumerate(names)}

    def sample(paths: list[Path], folder: Path, max_count: int) -> Labelled:
        indices = np.linspace(0, len(paths) - 1, min(max_count, len(paths))).astype(int)
        selected = [paths[index] for index in np.unique(indices)]
        pixels = np.stack([_centre_crop(path, size) for path in selected])
        return Labelled(
            pixels, np.array([class_index[path.relative_to(folder).parts[0]] for path in selected])
        )

    train_set, test_set = (
        sample(pictures, root / "train", train),
        sample(test_paths, root / "val", test),
    )
    counts = {"train": len(train_set.labels), "test": len(test_set.labels)}
    about = {"data": root.name, "split": "val", "pictures": len(pictures), **counts}
    return Data(pictures, train_set, test_set, about)


def compositions(*, size: int, pictures: int, train: int, test: int, split: str) -> Data:
    """Return cut-out objects on scene photographs; scenes of the test images are not trained on.

    As with `cifar`, the images that train the probes follow the training images.
    """

    def labelled(images: ObjectsOnScenes, start: int, stop: int) -> Labelled:
        items = [images[index] for index in range(start, stop)]
        return Labelled(
            np.stack([item.image for item in items]), np.array([item.label for item in items])
        )

    learned = ObjectsOnScenes(objects_root(), "train", size=size, count=pictures + train)
    held_out = ObjectsOnScenes(objects_root(), split, size=size, count=test)
    about = {
        "data": "compositions", "split": split, "pictures": pictures, "train": train, "test": test,
    }  # fmt: skip
    trained = labelled(learned, 0, pictures).pixels
    return Data(
        trained, labelled(learned, pictures, pictures + train), labelled(held_out, 0, test), about
    )


def synthetic(size: int, pictures: int, train: int, test: int) -> Data:
    """Return synthetic images of three textures on a smooth background, for a smoke test."""

    def make_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels, side = np.arange(count) % 3, round(ENLARGEMENT * size)
        images = np.empty((count, side, side, 3), np.uint8)
        for image, label in zip(images, labels, strict=True):
            coarse = Image.fromarray(rng.integers(40, 216, (3, 3, 3), dtype=np.uint8))
            image[:] = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
            top, left = rng.integers(0, side // 2, 2)
            grain = 2 << int(label)
            texture = rng.integers(0, 256, (16 // grain, 16 // grain, 3)).repeat(grain, 0)
            image[top : top + 16, left : left + 16] = texture.repeat(grain, 1)
        return images, labels

    sets = [
        _label_centre_crops(*make_images(count, seed), size)
        for count, seed in ((train, 1), (test, 2))
    ]
    about = {
        "data": "drawn", "split": "smoke", "pictures": pictures, "train": train, "test": test,
    }  # fmt: skip
    return Data(make_images(pictures, 0)[0], sets[0], sets[1], about)


def _centre_crop(picture: Any, size: int) -> np.ndarray:
    """Return the centre crop (size, size, 3) of an image, as in evaluation."""
    image = read(picture)
    return np.asarray(middle(image, (size, size)).image(image))
