"""Objects, scenes and photographs of the second test sets.

Chosen by eye from contact sheets, by the rules of `objects_on_scenes.catalog`. All files are new,
except the unseen objects of that catalogue: they fill the classes with fewer than three new
objects. The limits: no new bird, cup or pot, insect or mushroom was found, and one new ball,
flower, musical instrument and road sign each. Scenes are buildings and landscapes; those of the
first catalogue are mainly nature, close up. Paths are relative to `usr/share` of the packages that
`fetch` lists; those that begin with `photographs` are resources of GCompris, those that begin with
`cutouts` are made from photographs with a plain background.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..objects_on_scenes import CLASSES, Objects

SEED = 28
"""Seed of the compositions; no other study uses it."""


@dataclass(frozen=True)
class Plain:
    """Settings of `cutouts.cut_out` for one photograph with a plain background.

    Parameters
    ----------
    tolerance : greatest difference from the colour of the background, of 255
    holes : whether enclosed areas of that colour are background, as in the handles of scissors
    """

    tolerance: int = 40
    holes: bool = True


def _photographs(folder: str, names: str) -> tuple[str, ...]:
    return tuple(f"photographs/{folder}/{name}.webp" for name in names.split())


_CATEGORIES = "categorization/resource/images"
_TOOLS = _photographs(
    f"{_CATEGORIES}/tools",
    "plier1 scissors2 wrench measuringTape1 screwDriver cuttingTool hammer7 plier2 scissors1 "
    "wrench1 hammer8 plier3 scissors3 screwDriver1 hammer2 plier4 sickle",
)
_FISHES = _photographs(f"{_CATEGORIES}/fishes", "fish25 fish18 fish28 fish19 fish17")
_BALL = f"photographs/{_CATEGORIES}/others/volleyball.webp"
_LUTE = "photographs/explore_world_music/resource/music/middleeast.webp"

PLAIN: dict[str, Plain] = {
    **dict.fromkeys((*_TOOLS, *_FISHES), Plain()),
    _BALL: Plain(tolerance=20, holes=False),
    _LUTE: Plain(tolerance=60),
}
"""Photographs with a plain background, from which `cutouts.cut_out` makes a mask."""


def cutout_path(photograph: str) -> str:
    """Return the path of the cut-out of a photograph with a plain background."""
    return f"cutouts/{photograph.removeprefix('photographs/').removesuffix('.webp')}.png"


def _stamps(names: str) -> tuple[str, ...]:
    return tuple(f"tuxpaint/stamps/{name}.png" for name in names.split())


NEW_OBJECTS: dict[str, tuple[str, ...]] = {
    "ball": (cutout_path(_BALL),),
    "fish": (*map(cutout_path, _FISHES), *_stamps("animals/fish/seahorse")),
    "flower": _stamps("plants/flowers/plastic/chuvanna_plastic_poo"),
    "fruit or vegetable": _stamps("food/spices/ginger plants/trees/rambutan"),
    "mammal": _stamps(
        "animals/mammals/aquatic/dolphin animals/mammals/aquatic/sea_lion "
        "animals/mammals/apes/tamarin_emperor animals/mammals/aquatic/orca"
    ),
    "musical instrument": (cutout_path(_LUTE),),
    "road sign": _stamps("town/roadsigns/railroad_crossing"),
    "tool": tuple(map(cutout_path, _TOOLS)),
    "vehicle": _stamps(
        "military/vehicles/infantry-stryker vehicles/flight/planes/747 "
        "vehicles/cycle/pink_tricycle military/vehicles/bradley military/vehicles/ww2_german_gun"
    ),
}
"""Objects that no other data set uses."""


def _with_unseen(name: str) -> Objects:
    """Return the new objects of a class, and unseen ones if there are fewer than three."""
    new = NEW_OBJECTS.get(name, ())
    return Objects((), (), new if len(new) >= 3 else (*new, *CLASSES[name].unseen))


OBJECTS: dict[str, Objects] = {name: _with_unseen(name) for name in CLASSES}
"""Objects of the compositions, new ones first."""

SCENES: tuple[str, ...] = _photographs(
    "explore_monuments/resource",
    "egypt/bentPyramid egypt/meidumPyramid egypt/redPyramid france/chateaudeChenonceau "
    "france/citedeCarcassonne france/montStMichel france/pontduGard france/rocamadour "
    "germany/neuschwansteinCastle germany/schwerinPalace germany/trierImperialBaths "
    "india/ajantaCave india/goldenTemple india/greatStupa india/hawaMahal india/konarkSunTemple "
    "india/rangGhar usa/canyondeChelly usa/castillodeSanMarcos usa/fortSumter usa/navajo "
    "wonders/chichenItza wonders/greatWallofChina wonders/machuPicchu wonders/petra",
)
"""Photographs that show none of the classes."""

_ERASE, _FARM = "erase/resource", "explore_farm_animals/resource/animals"
_WORLD, _MUSIC = "explore_world_animals/resource/animals", "explore_world_music/resource/music"

PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "ball": _photographs(f"{_CATEGORIES}/others", "volleyball baseball"),
    "bird": _photographs(_ERASE, "kingfisher heron penguin gosling")
    + _photographs(_WORLD, "scarlet_macaw")
    + _photographs(_FARM, "owl duck chicken"),
    "cup or pot": _photographs(f"{_CATEGORIES}/others", "cup buffetset pan"),
    "fish": _FISHES + _photographs(f"{_CATEGORIES}/fishes", "fish1 fish2 fish7"),
    "insect": _photographs(_ERASE, "butterfly caterpillar"),
    "mammal": _photographs(_ERASE, "red_panda horse camels")
    + _photographs(_WORLD, "hedgehog panda bison")
    + _photographs(_FARM, "cow dog"),
    "musical instrument": _photographs(_MUSIC, "middleeast africa america"),
    "tool": _TOOLS[:8],
}
"""Photographs of each class, without composition; the other classes have none."""


def photographs() -> tuple[str, ...]:
    """Return the path of every photograph, once: scenes, objects and whole photographs."""
    shown = [path for paths in PHOTOGRAPHS.values() for path in paths]
    return tuple(dict.fromkeys([*SCENES, *PLAIN, *shown]))


def stamps() -> tuple[str, ...]:
    """Return the path of every stamp."""
    paths = [path for objects in OBJECTS.values() for path in objects.unseen]
    return tuple(path for path in paths if path.startswith("tuxpaint"))
