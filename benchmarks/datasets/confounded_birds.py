"""Confounded birds: water birds and land birds on water and on land, as in Waterbirds.

In training 95 % of the birds stand on their own background, so that a head may learn the background
instead of the bird; accuracies of the four groups (land bird on land, land bird on water, …) show
it. Birds are the cut-outs and scenes the photographs of `objects_on_scenes`, with exact masks.
Training and validation share no scene, and the test scenes are in neither; they were not used while
prompting was developed.
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
"""Land birds, and water birds. The crowned crane, which lives in both habitats, is left out."""


def _scene_paths(names: str) -> tuple[str, ...]:
    paths = [path for group in SCENES.values() for path in group] + [*FURTHER]
    paths.append("backgrounds/Dragonfly_by_Bolly.jpg")
    return tuple(next(path for path in paths if name in path) for name in names.split())


DEVELOPMENT: tuple[tuple[str, ...], tuple[str, ...]] = (
    _scene_paths("aitzgorri GreenMeadow RainDrops FallenLeaf OneStandsOut Blinds picosdeeuropa"),
    _scene_paths("Infinite-Sea Aqua BytheWater DarkestHour ColdRipple"),
)
"""Scenes of land, and of water, for training and validation."""

TEST: tuple[tuple[str, ...], tuple[str, ...]] = (
    _scene_paths("Path sunset seeding Dragonfly"),
    _scene_paths("Volna summer_1am EveningGlow"),
)
"""Scenes of land, and of water, for the test."""

FOR_VALIDATION = (3, 2)
"""Number of development scenes of land and of water that are used for validation only."""


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

    Training has `count` images; on the part `agreeing` of them birds are on their own background.
    The other splits have `count` images per group. An image depends only on the seed, the split
    and its number. The seed also chooses the validation scenes.
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
        """Scenes of land, and scenes of water."""
        if self.split == "test":
            return TEST
        scenes = []
        for ground, (paths, num_validation) in enumerate(
            zip(DEVELOPMENT, FOR_VALIDATION, strict=True)
        ):
            order = np.random.default_rng((self.seed, ground, 101)).permutation(len(paths))
            selected = (
                order[:num_validation] if self.split == "validation" else order[num_validation:]
            )
            scenes.append(tuple(paths[index] for index in sorted(selected)))
        return scenes[0], scenes[1]

    def __len__(self) -> int:
        return self.count if self.split == "train" else 4 * self.count

    def __iter__(self) -> Iterator[Bird]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Bird:
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 to {len(self) - 1}, got {index}")
        split_index = ("train", "validation", "test").index(self.split)
        rng = np.random.default_rng((self.seed, split_index, index))
        if self.split == "train":
            label = index % 2
            ground = label if rng.random() < self.agreeing else 1 - label
            scene = self.scenes[ground][rng.integers(len(self.scenes[ground]))]
        else:
            label, ground = divmod(index % 4, 2)
            scenes = self.scenes[ground]
            scene = scenes[(index // 4) % len(scenes)]  # each scene equally often
        name = BIRDS[label][rng.integers(len(BIRDS[label]))]
        background = crop_scene(scene_of(self.root / scene), self.size, rng)
        cutout = cutout_of(self.root / f"tuxpaint/stamps/animals/birds/{name}.png")
        layer, corner = place(cutout, self.size, Placement(), rng)
        image, mask = paste(background, layer, corner)
        return Bird(image, mask, label, ground, scene)
