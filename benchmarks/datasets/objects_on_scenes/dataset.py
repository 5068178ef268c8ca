"""Data set of compositions, `ObjectsOnScenes`, deterministic for a seed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .catalog import CLASSES, SCENES, Objects
from .compose import Mask, Pixels, Placement, crop_scene, paste, place, trim

SPLITS: dict[str, tuple[str, str]] = {
    "train": ("learned", "learned"),
    "validation": ("learned", "validation"),
    "validation-objects": ("validation", "validation"),
    "test": ("learned", "unseen"),
    "unseen-objects": ("unseen", "unseen"),
}
"""Split: (which objects, which scenes)."""

SCENE_SIDE = 720
"""Shorter side of the stored scenes, pixels."""


@dataclass(frozen=True)
class Composition:
    """Image with an exactly known mask of its object.

    Parameters
    ----------
    image : (H, W, 3) uint8
    mask : (H, W), true on the object
    label : index into the class names
    object, scene : paths of the two sources
    visible : part of the object's pixels inside the frame
    offset : distance of the mask's centre of mass from the frame's centre, pixels
    """

    image: Pixels
    mask: Mask
    label: int
    object: str
    scene: str
    visible: float
    offset: float


class ObjectsOnScenes:
    """Data set of cut-out objects on scene photographs.

    Every class has the same number of images (to within one), every object of a class the same
    share. Image `i` depends only on the seed, the split and `i`, so that a larger `count` adds
    images and changes none.

    Parameters
    ----------
    root : folder of the files that `fetch` downloaded
    split : one of `SPLITS`; splits share neither scenes nor random numbers
    size : side of the images, pixels
    count : number of images
    seed : seed of all random choices
    placement : size and position of the objects
    catalog, scenes : other objects or scenes, in the form of the catalogue

    Raises
    ------
    ValueError
        For an unknown split.
    FileNotFoundError
        If the data has not been fetched.
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        size: int = 224,
        count: int = 1000,
        seed: int = 0,
        placement: Placement | None = None,
        catalog: dict[str, Objects] | None = None,
        scenes: dict[str, tuple[str, ...]] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: unknown {split!r} — choose from {', '.join(SPLITS)}")
        self.root, self.size, self.count, self.seed = Path(root), size, count, seed
        self.split, self.placement = split, placement or Placement()
        group, scene_group = SPLITS[split]
        catalog = CLASSES if catalog is None else catalog
        self.classes = tuple(catalog)
        self.scenes = (SCENES if scenes is None else scenes)[scene_group]
        objects_of_label = {i: getattr(item, group) for i, item in enumerate(catalog.values())}
        self.objects: dict[int, tuple[str, ...]] = {
            i: objects for i, objects in objects_of_label.items() if objects
        }
        self._check_fetched()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Composition]:
        return (self[index] for index in range(self.count))

    def __getitem__(self, index: int) -> Composition:
        if not 0 <= index < self.count:
            raise IndexError(f"index: expected 0 to {self.count - 1}, got {index}")
        rng = np.random.default_rng((self.seed, list(SPLITS).index(self.split), index))
        turn, class_index = divmod(index, len(self.objects))
        label = list(self.objects)[class_index]
        name = self.objects[label][turn % len(self.objects[label])]
        scene = self.scenes[rng.integers(len(self.scenes))]
        background = crop_scene(scene_of(self.root / scene), self.size, rng)
        layer, corner = place(cutout_of(self.root / name), self.size, self.placement, rng)
        image, mask = paste(background, layer, corner)
        center = np.argwhere(mask).mean(axis=0) - (self.size - 1) / 2
        visible = float(mask.sum() / (layer[..., 3] >= 128).sum())
        offset = float(np.hypot(*center))
        return Composition(image, mask, label, name, scene, visible, offset)

    def _check_fetched(self) -> None:
        paths = [*self.scenes, *(path for objects in self.objects.values() for path in objects)]
        for path in paths:
            if not (self.root / path).exists():
                raise FileNotFoundError(
                    f"objects on scenes: expected {self.root / path}, got no such file — run "
                    "python -m benchmarks.datasets.objects_on_scenes.fetch"
                )


def sheet(compositions: list[Composition], columns: int = 8, outline: bool = True) -> Image.Image:
    """Return a contact sheet with the border of each mask in red."""
    size = compositions[0].image.shape[0]
    rows = -(-len(compositions) // columns)
    page = np.full((rows * size, columns * size, 3), 255, dtype=np.uint8)
    for index, item in enumerate(compositions):
        row, column = divmod(index, columns)
        tile = item.image.copy()
        if outline:
            inner = item.mask.copy()
            for axis in (0, 1):
                for step in (-1, 1):
                    inner &= np.roll(item.mask, step, axis)
            tile[item.mask & ~inner] = (255, 0, 0)
        page[row * size : (row + 1) * size, column * size : (column + 1) * size] = tile
    return Image.fromarray(page)


@functools.lru_cache(maxsize=64)
def scene_of(path: Path) -> Image.Image:
    """Return a scene, resized to a shorter side of `SCENE_SIDE` pixels."""
    with Image.open(path) as opened:
        opened.draft("RGB", (SCENE_SIDE, SCENE_SIDE))
        scene = opened.convert("RGB")
    factor = SCENE_SIDE / min(scene.size)
    shape = (round(scene.width * factor), round(scene.height * factor))
    return scene.resize(shape, Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=512)
def cutout_of(path: Path) -> Image.Image:
    """Return a cut-out without its transparent border."""
    with Image.open(path) as opened:
        return trim(opened)
