"""The data of `bench_pretraining`: pictures to learn from, and labelled ones to probe with.

By default compositions of `objects_on_scenes`, kept as arrays where they were made; a folder as
ImageNet's (FOLDER/train/CLASS/…, FOLDER/val/CLASS/…) does as well; for a smoke test they are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from semattn.files import whole
from semattn.images import read
from semattn.pretraining import readable
from semattn.pretraining.data import middle

from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.fetch import default_root

LARGER = 1.5  # compositions are this many times the input's side, so that crops enlarge little
PROBE_SEED = 1000  # of compositions to probe with; those to learn from have 0


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


def compositions(
    work: Path, *, size: int, pictures: int, train: int, test: int, split: str
) -> Data:
    """Objects on scenes; `split` is "validation" while anything is chosen, then "test" once."""
    side = round(LARGER * size)
    learned, _ = _made(work, "train", pictures, 0, side)
    sets = [
        _labelled(*_made(work, which, count, PROBE_SEED, side), size)
        for which, count in (("train", train), (split, test))
    ]
    about = {"data": "objects on scenes", "split": split, "pictures": pictures}
    return Data(learned, sets[0], sets[1], about)


def _made(work: Path, split: str, count: int, seed: int, side: int) -> tuple[np.ndarray, Any]:
    """Compositions (n, side, side, 3) and their classes, kept in a file."""
    file = work / f"compositions-{split}-{count}-{seed}-{side}.npz"
    if not file.exists():
        data = ObjectsOnScenes(default_root(), split, size=side, count=count, seed=seed)
        made = [data[number] for number in range(count)]
        with whole(file) as stream:
            np.savez(
                stream,
                images=np.stack([one.image for one in made]),
                labels=np.array([one.label for one in made]),
            )
    with np.load(file) as kept:
        return kept["images"], kept["labels"]


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

    return Data(
        pictures,
        chosen(pictures, root / "train", train),
        chosen(held, root / "val", test),
        {"data": root.name, "split": "val", "pictures": len(pictures)},
    )


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
    about = {"data": "drawn", "split": "smoke", "pictures": pictures}
    return Data(make(pictures, 0)[0], sets[0], sets[1], about)


def _middle(picture: Any, size: int) -> np.ndarray:
    """The middle of a picture, (size, size, 3), as evaluation sees it."""
    image = read(picture)
    return np.asarray(middle(image, (size, size)).image(image))
