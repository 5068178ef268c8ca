"""The two data sets: compositions of the second catalogue, and whole photographs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from ..objects_on_scenes import CLASSES, ObjectsOnScenes
from ..objects_on_scenes.compose import Mask
from .catalog import OBJECTS, PHOTOGRAPHS, PLAIN, SCENES, SEED, cutout_path


def compositions(root: Path | str, count: int, size: int = 224) -> ObjectsOnScenes:
    """Return compositions of the second catalogue, with its seed."""
    return ObjectsOnScenes(
        root, "unseen-objects", size=size, count=count, seed=SEED,
        catalog=OBJECTS, scenes={"unseen": SCENES},
    )  # fmt: skip


@dataclass(frozen=True)
class Photograph:
    """Photograph that shows a class.

    Parameters
    ----------
    image : RGB, square
    mask : (H, W), true on the object; None if the background is not plain
    label : index into the class names
    name : path of the source
    """

    image: Image.Image
    mask: Mask | None
    label: int
    name: str


class Photographs:
    """Photographs without composition, resized to a square.

    The classes take turns, so that the first photographs show many classes. Photographs with a
    plain background have a mask; their shorter side is extended by copies of its border, so that
    the whole object is shown. Of the others, the central square is shown.

    Parameters
    ----------
    root : folder of the files that `fetch` downloaded
    size : side of the images, pixels
    count : number of photographs; None for all
    catalog : photographs of each class
    """

    def __init__(
        self,
        root: Path | str,
        *,
        size: int = 224,
        count: int | None = None,
        catalog: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        catalog = PHOTOGRAPHS if catalog is None else catalog
        self.root, self.size = Path(root), size
        self.classes = tuple(CLASSES)
        turns = zip_longest(*([(path, name) for path in paths] for name, paths in catalog.items()))
        named = [item for turn in turns for item in turn if item is not None]
        self.items: list[tuple[str, str]] = named[:count]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Photograph]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Photograph:
        path, class_name = self.items[index]
        with Image.open(self.root / path) as opened:
            picture = opened.convert("RGB")
        label, mask = self.classes.index(class_name), None
        if path in PLAIN:
            with Image.open(self.root / cutout_path(path)) as opened:
                alpha = extended(opened.getchannel("A"))
            mask = np.asarray(self._resized(alpha)) >= 128
            picture = extended(picture)
        return Photograph(self._resized(picture), mask, label, path)

    def _resized(self, picture: Image.Image) -> Image.Image:
        """Return the central square, resized."""
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        return picture.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)


def extended(picture: Image.Image) -> Image.Image:
    """Return a square: the shorter side is extended on both ends by copies of its border."""
    pixels, side = np.asarray(picture), max(picture.size)
    rows, columns = side - picture.height, side - picture.width
    padding = [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)]
    return Image.fromarray(np.pad(pixels, padding + [(0, 0)] * (pixels.ndim - 2), mode="edge"))
