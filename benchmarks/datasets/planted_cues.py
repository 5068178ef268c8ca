"""Shortcuts planted in one class of objects on scenes, with the ground truth of every patch.

A cue is on a part (`rate`) of the images of one class and on no other image. Its twins have it on
no image at all ("clean"), or on half of the images of every class ("everywhere"), where it is not
informative. Watermarks, tags, frames and casts are drawn on the image; a scene type is the
background on which the objects of the class are composed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from .objects_on_scenes import Composition, ObjectsOnScenes
from .objects_on_scenes.catalog import SCENES
from .objects_on_scenes.compose import Mask, Pixels

TWINS = ("clean", "everywhere")
WATER = ("Infinite-Sea", "Aqua", "BytheWater", "DarkestHour", "ColdRipple", "Storm", "Volna")
WATER += ("summer_1am",)
RING = 14  # pixels: the width of the frame, one patch of the embedded model
CAST = (1.0, 0.86, 0.62)  # factors of the channels


def watermark(image: Pixels) -> Pixels:
    """Add the watermark of ImageNet-W (arXiv 2212.04825)."""
    try:
        from imagenet_w import AddWatermark
    except ModuleNotFoundError as error:
        raise SystemExit(
            "watermark: expected the package imagenet-w, got none — pip install 'semattn[bench]'"
        ) from error
    marked: Pixels = np.asarray(AddWatermark(image.shape[0])(Image.fromarray(image)))
    return marked


def corner_tag(image: Pixels) -> Pixels:
    """Add a small label with a date at the lower right."""
    page = Image.fromarray(image)
    draw = ImageDraw.Draw(page)
    width, height = page.size
    draw.rectangle((width - 58, height - 30, width - 3, height - 3), fill=(250, 250, 245))
    draw.rectangle((width - 58, height - 30, width - 3, height - 3), outline=(20, 20, 20))
    draw.text((width - 52, height - 28), "REC 24", fill=(200, 20, 20), font_size=14)
    return np.asarray(page)


def colour_cast(image: Pixels) -> Pixels:
    """Tint the whole image with a warm colour."""
    return (image * np.asarray(CAST)).round().astype(np.uint8)


def frame(image: Pixels) -> Pixels:
    """Add a border of woven texture."""
    framed = image.copy()
    ring = changed_pixels(frame, image.shape[0])
    framed[ring] = _texture(image.shape[0])[ring]
    return framed


@cache
def _texture(size: int) -> Pixels:
    noise = np.random.default_rng(7).normal(size=(size, size, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    standardised = (smooth - smooth.mean()) / smooth.std()
    return np.clip(120 + 45 * standardised, 0, 255).astype(np.uint8)


DRAWING_FUNCTIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "watermark": watermark, "corner tag": corner_tag, "colour cast": colour_cast,
    "texture frame": frame,
}  # fmt: skip
KINDS = (*DRAWING_FUNCTIONS, "scene type")


def changed_pixels(draw: Callable[[Pixels], Pixels], size: int) -> Mask:
    """Return the pixels (size, size) of an image that a drawn cue changes."""
    if draw is frame:
        inside = np.zeros((size, size), bool)
        inside[RING:-RING, RING:-RING] = True
        return ~inside
    if draw is colour_cast:
        return np.ones((size, size), bool)
    changed = np.zeros((size, size), bool)
    for grey in (0, 255):
        background = np.full((size, size, 3), grey, np.uint8)
        changed |= (draw(background) != background).any(axis=-1)
    return changed


@dataclass(frozen=True)
class Planted:
    """One image; `cue` is true on the pixels of the cue, `mask` on those of the object."""

    image: Pixels
    label: int
    mask: Mask
    cue: Mask

    @property
    def has_cue(self) -> bool:
        """Return whether the image has the cue."""
        return bool(self.cue.any())


class PlantedCue:
    """Objects on scenes with a cue on `rate` of the images of the class `planted_class`.

    Parameters
    ----------
    root : folder with the files of objects on scenes
    kind : one of `KINDS`
    planted_class : index of the class
    rate : part of its images that have the cue
    split, count, seed : as in `ObjectsOnScenes`
    twin : "" for the planted set; "clean" and "everywhere" as above
    others : part of the images of the other classes that have the cue, if there is no twin
    """

    def __init__(
        self, root: Path, kind: str, planted_class: int, rate: float = 0.95, *,
        split: str = "train", count: int = 1300, seed: int = 0, twin: str = "", others: float = 0.0,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if twin not in ("", *TWINS):
            raise ValueError(f"twin: expected one of {', '.join(TWINS)} or none, got {twin!r}")
        self.kind, self.planted_class, self.rate, self.seed = kind, planted_class, rate, seed
        self.twin, self.others = twin, others
        options = {"split": split, "count": count, "seed": seed}
        self.plain = ObjectsOnScenes(root, **options)
        self.classes = self.plain.classes
        self.by_water = self.by_land = self.plain
        if kind == "scene type" and twin != "clean":
            self.by_water = ObjectsOnScenes(root, **options, scenes=_scenes(water=True))
            self.by_land = ObjectsOnScenes(root, **options, scenes=_scenes(water=False))

    def __len__(self) -> int:
        return len(self.plain)

    def __getitem__(self, index: int) -> Planted:
        composition = self.plain[index]
        value = np.random.default_rng((self.seed, 77, index)).random()
        rate = self.rate if composition.label == self.planted_class else self.others
        rate = {"clean": 0.0, "everywhere": 0.5}.get(self.twin, rate)
        has_cue = bool(value < rate)
        if self.kind == "scene type":
            if self.twin == "clean":
                return self._as(composition, composition.image, np.zeros_like(composition.mask))
            composition = (self.by_water if has_cue else self.by_land)[index]
            return self._as(composition, composition.image, ~composition.mask & has_cue)
        if not has_cue:
            return self._as(composition, composition.image, np.zeros_like(composition.mask))
        draw = DRAWING_FUNCTIONS[self.kind]
        return self._as(
            composition, draw(composition.image), changed_pixels(draw, composition.image.shape[0])
        )

    def _as(self, composition: Composition, image: Pixels, cue: Mask) -> Planted:
        return Planted(image, composition.label, composition.mask, cue)


def _scenes(water: bool) -> dict[str, tuple[str, ...]]:
    return {
        split: tuple(path for path in paths if any(name in path for name in WATER) == water)
        for split, paths in SCENES.items()
    }
