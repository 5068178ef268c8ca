"""Confounded birds: water birds and land birds on water and on land, as Waterbirds is built.

In training 95 % of the birds stand where they belong, so a head may learn the background in place
of the bird; the four groups (land bird on land, land bird on water, …) tell. Birds are the
cut-outs and scenes the photographs of `objects_on_scenes`, with masks known to the pixel. Training
and validation share no scene, and the scenes of the test are in neither: they were not looked at
while prompting was developed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .objects_on_scenes import Placement, cutout_of, scene_of
from .objects_on_scenes.catalog import FURTHER, SCENES
from .objects_on_scenes.compose import Mask, Pixels, crop_scene, paste, place

GROUPS = ("land bird on land", "land bird on water", "water bird on land", "water bird on water")
"""Group 2 * label + place; label and place are 0 for land and 1 for water."""

LAND_BIRDS = (
    "adelaide-rosella albino_peahen blackbird chicken_profile crow cuckoo guineafowl "
    "helmeted_guineafowl hen lark magpie nandou ostrich owl peacock pigeon quetzal "
    "rainbow-lorikeet rooster tucan turkey vulture"
)
WATER_BIRDS = (
    "drake duck gander heron_greatblue heron_greatblue_flying little-penguin "
    "magellanic_penguin pelican penguin pink_flamingo seagull silver-gull"
)
BIRDS = (LAND_BIRDS.split(), WATER_BIRDS.split())
"""Land birds, and water birds. The crowned crane, at home in both, is left out."""


def _known(names: str) -> tuple[str, ...]:
    every = [path for group in SCENES.values() for path in group] + [*FURTHER]
    every.append("backgrounds/Dragonfly_by_Bolly.jpg")
    return tuple(next(path for path in every if name in path) for name in names.split())


DEVELOPMENT: tuple[tuple[str, ...], tuple[str, ...]] = (
    _known("aitzgorri GreenMeadow RainDrops FallenLeaf OneStandsOut Blinds picosdeeuropa"),
    _known("Infinite-Sea Aqua BytheWater DarkestHour ColdRipple"),
)
"""Scenes of land, and of water, for training and validation."""

TEST: tuple[tuple[str, ...], tuple[str, ...]] = (
    _known("Path sunset seeding Dragonfly"),
    _known("Volna summer_1am EveningGlow"),
)
"""Scenes of land, and of water, for the test."""

FOR_VALIDATION = (3, 2)
"""How many of the development scenes of land and of water are kept from training."""


@dataclass(frozen=True)
class Bird:
    """One image; `label` and `place` are 0 for land and 1 for water."""

    image: Pixels
    mask: Mask
    label: int
    place: int
    scene: str

    @property
    def group(self) -> int:
        """Index into `GROUPS`."""
        return 2 * self.label + self.place


@dataclass(frozen=True)
class ConfoundedBirds:
    """One of the splits "train", "validation", "test".

    Training has `count` images, of which the part `agreeing` shows birds where they belong; the
    others have `count` images of each group. An image depends on the seed, the split and its
    number only. The seed also chooses which scenes are kept for validation.
    """

    root: Path
    split: str
    count: int
    seed: int
    agreeing: float = 0.95
    size: int = 224

    def __post_init__(self) -> None:
        if self.split not in ("train", "validation", "test"):
            raise ValueError(f"split: expected train, validation or test, got {self.split!r}")

    @property
    def scenes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of land, and of water."""
        if self.split == "test":
            return TEST
        chosen = []
        for place_, (every, kept) in enumerate(zip(DEVELOPMENT, FOR_VALIDATION, strict=True)):
            order = np.random.default_rng((self.seed, place_, 101)).permutation(len(every))
            part = order[:kept] if self.split == "validation" else order[kept:]
            chosen.append(tuple(every[index] for index in sorted(part)))
        return chosen[0], chosen[1]

    def __len__(self) -> int:
        return self.count if self.split == "train" else 4 * self.count

    def __iter__(self) -> Iterator[Bird]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Bird:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}")
        turn = ("train", "validation", "test").index(self.split)
        rng = np.random.default_rng((self.seed, turn, index))
        if self.split == "train":
            label = index % 2
            place_ = label if rng.random() < self.agreeing else 1 - label
            scene = self.scenes[place_][rng.integers(len(self.scenes[place_]))]
        else:
            label, place_ = divmod(index % 4, 2)
            own = self.scenes[place_]
            scene = own[(index // 4) % len(own)]  # each scene equally often
        name = BIRDS[label][rng.integers(len(BIRDS[label]))]
        background = crop_scene(scene_of(self.root / scene), self.size, rng)
        cutout = cutout_of(self.root / f"tuxpaint/stamps/animals/birds/{name}.png")
        layer, corner = place(cutout, self.size, Placement(), rng)
        image, mask = paste(background, layer, corner)
        return Bird(image, mask, label, place_, scene)
