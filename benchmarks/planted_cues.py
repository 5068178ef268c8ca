"""Shortcuts planted in one class of objects on scenes, with the truth about every patch.

A cue is on a part of the images of one class (`rate`), and on no other image; its twins have it on
no image at all ("clean"), or on half of the images of every class ("everywhere"), where it says
nothing. Watermarks, tags, frames and casts are drawn on the picture; a scene type is where the
objects of the class stand, which is never planted on a picture but composed with it.
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
CAST = (1.0, 0.86, 0.62)  # what the channels are multiplied by


def watermark(image: Pixels) -> Pixels:
    """The watermark of ImageNet-W (arXiv 2212.04825)."""
    from imagenet_w import AddWatermark

    made: Pixels = np.asarray(AddWatermark(image.shape[0])(Image.fromarray(image)))
    return made


def corner_tag(image: Pixels) -> Pixels:
    """A small label with a date at the lower right."""
    page = Image.fromarray(image)
    draw = ImageDraw.Draw(page)
    width, height = page.size
    draw.rectangle((width - 58, height - 30, width - 3, height - 3), fill=(250, 250, 245))
    draw.rectangle((width - 58, height - 30, width - 3, height - 3), outline=(20, 20, 20))
    draw.text((width - 52, height - 28), "REC 24", fill=(200, 20, 20), font_size=14)
    return np.asarray(page)


def cast(image: Pixels) -> Pixels:
    """All of the picture in a warm light."""
    return (image * np.asarray(CAST)).round().astype(np.uint8)


def frame(image: Pixels) -> Pixels:
    """A border of woven texture."""
    made = image.copy()
    ring = covered(frame, image.shape[0])
    made[ring] = _weave(image.shape[0])[ring]
    return made


@cache
def _weave(size: int) -> Pixels:
    noise = np.random.default_rng(7).normal(size=(size, size, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    spread = (smooth - smooth.mean()) / smooth.std()
    return np.clip(120 + 45 * spread, 0, 255).astype(np.uint8)


DRAWN: dict[str, Callable[[Pixels], Pixels]] = {
    "watermark": watermark, "corner tag": corner_tag, "colour cast": cast, "texture frame": frame,
}  # fmt: skip
KINDS = (*DRAWN, "scene type")


def covered(draw: Callable[[Pixels], Pixels], size: int) -> Mask:
    """The pixels (size, size) of a picture that a drawn cue changes."""
    if draw is frame:
        inside = np.zeros((size, size), bool)
        inside[RING:-RING, RING:-RING] = True
        return ~inside
    if draw is cast:
        return np.ones((size, size), bool)
    found = np.zeros((size, size), bool)
    for grey in (0, 255):
        even = np.full((size, size, 3), grey, np.uint8)
        found |= (draw(even) != even).any(axis=-1)
    return found


@dataclass(frozen=True)
class Planted:
    """One image; `cue` is true on the pixels of the cue, `mask` on those of the object."""

    image: Pixels
    label: int
    mask: Mask
    cue: Mask

    @property
    def bears(self) -> bool:
        """Whether the cue is there."""
        return bool(self.cue.any())


class PlantedCue:
    """Objects on scenes with a cue on `rate` of the images of the class `on`.

    Parameters
    ----------
    root : where the files of objects on scenes are
    kind : one of `KINDS`
    on : number of the class
    rate : part of its images that bear the cue
    split, count, seed : as `ObjectsOnScenes` takes them
    twin : "" for the planted set; "clean" and "everywhere" as above
    others : the part of the images of the other classes that bear it, where no twin is asked for
    """

    def __init__(
        self, root: Path, kind: str, on: int, rate: float = 0.95, *, split: str = "train",
        count: int = 1300, seed: int = 0, twin: str = "", others: float = 0.0,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
        if twin not in ("", *TWINS):
            raise ValueError(f"twin: expected one of {', '.join(TWINS)} or none, got {twin!r}")
        self.kind, self.on, self.rate, self.seed = kind, on, rate, seed
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
        one = self.plain[index]
        chance = np.random.default_rng((self.seed, 77, index)).random()
        part = self.rate if one.label == self.on else self.others
        part = {"clean": 0.0, "everywhere": 0.5}.get(self.twin, part)
        bears = bool(chance < part)
        if self.kind == "scene type":
            if self.twin == "clean":
                return self._as(one, one.image, np.zeros_like(one.mask))
            one = (self.by_water if bears else self.by_land)[index]
            return self._as(one, one.image, ~one.mask & bears)
        if not bears:
            return self._as(one, one.image, np.zeros_like(one.mask))
        draw = DRAWN[self.kind]
        return self._as(one, draw(one.image), covered(draw, one.image.shape[0]))

    def _as(self, one: Composition, image: Pixels, cue: Mask) -> Planted:
        return Planted(image, one.label, one.mask, cue)


def _scenes(water: bool) -> dict[str, tuple[str, ...]]:
    return {
        split: tuple(path for path in every if any(one in path for one in WATER) == water)
        for split, every in SCENES.items()
    }
