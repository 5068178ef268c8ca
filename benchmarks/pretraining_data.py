"""The data of `bench_pretraining`: pictures to learn from, and labelled ones to probe with.

By default CIFAR-10; a folder as ImageNet's (FOLDER/train/CLASS/…, FOLDER/val/CLASS/…) does as well;
for a smoke test they are drawn.
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

from . import cifar10

LARGER = 1.5  # drawn images are this many times the input's side, so that crops enlarge little


@dataclass(frozen=True, eq=False)
class Labelled:
    """Images as a model sees them, (n, H, W, 3) uint8, and their classes (n,)."""

    pixels: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Data:
    """Pictures to learn from, without labels; images that train the probes; images that test."""

    pictures: Sequence[Any]
    train: Labelled
    test: Labelled
    about: dict[str, Any]


def cifar(*, size: int, pictures: int, train: int, test: int, split: str) -> Data:
    """CIFAR-10, enlarged; `split` is "validation" while anything is chosen, then "test" once.

    Pictures to learn from are the first of the training split, those that train the probes come
    next, and validation images are its last.
    """
    images, labels = cifar10.load(cifar10.default_root(), "train")
    if pictures + train + test > len(images):
        raise ValueError(
            f"pictures: expected {len(images) - train - test} at most beside {train + test} images "
            f"for the probes, got {pictures}"
        )
    trained = slice(pictures, pictures + train)
    if split == "test":
        held, truth = (one[:test] for one in cifar10.load(cifar10.default_root(), "test"))
    else:
        held, truth = images[-test:], labels[-test:]
    about = {"data": "CIFAR-10", "split": split, "pictures": pictures, "train": train, "test": test}
    return Data(
        _enlarged(images[:pictures], size),
        Labelled(_enlarged(images[trained], size), labels[trained]),
        Labelled(_enlarged(held, size), truth),
        about,
    )


def _enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Images (n, side, side, 3) at another size, by bicubic interpolation."""
    made = [Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC) for one in images]
    return np.stack([np.asarray(one) for one in made])


def _labelled(images: np.ndarray, labels: np.ndarray, size: int) -> Labelled:
    return Labelled(np.stack([_middle(one, size) for one in images]), labels)


def image_folder(root: Path, *, size: int, train: int, test: int) -> Data:
    """FOLDER/train and FOLDER/val with a folder a class; at most so many to probe with."""
    pictures, _ = readable(root / "train")
    held, _ = readable(root / "val")
    names = sorted({path.relative_to(root / "train").parts[0] for path in pictures})
    number = {name: place for place, name in enumerate(names)}

    def chosen(paths: list[Path], folder: Path, most: int) -> Labelled:
        places = np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)
        picked = [paths[place] for place in np.unique(places)]
        pixels = np.stack([_middle(path, size) for path in picked])
        return Labelled(
            pixels, np.array([number[path.relative_to(folder).parts[0]] for path in picked])
        )

    learned, judged = chosen(pictures, root / "train", train), chosen(held, root / "val", test)
    counts = {"train": len(learned.labels), "test": len(judged.labels)}
    about = {"data": root.name, "split": "val", "pictures": len(pictures), **counts}
    return Data(pictures, learned, judged, about)


def drawn(size: int, pictures: int, train: int, test: int) -> Data:
    """Three classes of texture on smooth ground, for a smoke test."""

    def make(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        labels, side = np.arange(count) % 3, round(LARGER * size)
        made = np.empty((count, side, side, 3), np.uint8)
        for image, label in zip(made, labels, strict=True):
            coarse = Image.fromarray(rng.integers(40, 216, (3, 3, 3), dtype=np.uint8))
            image[:] = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
            top, left = rng.integers(0, side // 2, 2)
            grain = 2 << int(label)
            texture = rng.integers(0, 256, (16 // grain, 16 // grain, 3)).repeat(grain, 0)
            image[top : top + 16, left : left + 16] = texture.repeat(grain, 1)
        return made, labels

    sets = [_labelled(*make(count, seed), size) for count, seed in ((train, 1), (test, 2))]
    about = {
        "data": "drawn", "split": "smoke", "pictures": pictures, "train": train, "test": test,
    }  # fmt: skip
    return Data(make(pictures, 0)[0], sets[0], sets[1], about)


def _middle(picture: Any, size: int) -> np.ndarray:
    """The middle of a picture, (size, size, 3), as evaluation sees it."""
    image = read(picture)
    return np.asarray(middle(image, (size, size)).image(image))
