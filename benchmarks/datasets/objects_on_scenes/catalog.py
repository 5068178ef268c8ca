"""Class of every cut-out, and split of every object and scene.

Chosen by eye from contact sheets: only photographs (no drawings, no mirrored copies), unambiguous
classes, coarse enough to have several objects each. Similar objects (except two tigers) are in the
same split, so that an unseen object is not another photograph of a learned one. Paths are relative
to `usr/share` of the packages that `fetch` lists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

STAMPS = PurePosixPath("tuxpaint/stamps")


@dataclass(frozen=True)
class Objects:
    """The cut-outs of one class, as paths."""

    learned: tuple[str, ...]
    validation: tuple[str, ...]
    unseen: tuple[str, ...]


def _objects(folder: str, learned: str, unseen: str, validation: str = "") -> Objects:
    def paths(names: str) -> tuple[str, ...]:
        return tuple((STAMPS / folder / f"{name}.png").as_posix() for name in names.split())

    return Objects(paths(learned), paths(validation), paths(unseen))


CLASSES: dict[str, Objects] = {
    "ball": _objects(
        "sports",
        learned="basketball cricketball football soccer",
        unseen="australian_rules_football tennis_ball",
    ),
    "bird": _objects(
        "animals/birds",
        learned="adelaide-rosella albino_peahen blackbird chicken_profile crow crowned_crane drake "
        "duck gander hen lark little-penguin magellanic_penguin magpie nandou ostrich owl peacock "
        "pink_flamingo rainbow-lorikeet rooster seagull silver-gull tucan",
        validation="cuckoo penguin vulture",
        unseen="guineafowl helmeted_guineafowl heron_greatblue heron_greatblue_flying pelican "
        "pigeon quetzal turkey",
    ),
    "cup or pot": _objects(
        "household",
        learned="dishes/mug dishes/teapot kettle",
        unseen="dishes/pitcher_small",
    ),
    "fish": _objects(
        "animals/fish",
        learned="bluegroper clownfish dolphinfish lionfish moonwrasse",
        validation="stripedfish",
        unseen="butterflyfish coraltrout",
    ),
    "flower": _objects(
        "plants/flowers",
        learned="adeenia anemone_red anthoorium appooppanthady bolsom chemparathi flower1 flower2 "
        "flower3 flower4 flower7 flower8 flower9 flower10 whitestar-petunia yellow-flower",
        validation="flower6 iris",
        unseen="daffodil flower5 marigold pigface red-gazania rose",
    ),
    "fruit or vegetable": _objects(
        "food",
        learned="fruit/Apricot_whole fruit/Cherry_Stella fruit/apple_fuji fruit/apple_granny_smith "
        "fruit/apple_green fruit/apple_red fruit/apple_sierra_beauty fruit/apricot fruit/avocado "
        "fruit/banana fruit/cherimoya fruit/grapes fruit/mandarine fruit/orange "
        "fruit/orange_seville fruit/pineapple fruit/pomegranate fruit/sliced_lime "
        "fruit/sliced_orange vegetables/carrot vegetables/chilepepper vegetables/corn "
        "vegetables/garlic vegetables/garlics vegetables/lettuce vegetables/pattypan_squash "
        "vegetables/potato vegetables/redlettuce vegetables/tomato vegetables/yam",
        validation="fruit/kiwi fruit/mango vegetables/eggplant vegetables/onion",
        unseen="fruit/Strawberry2 fruit/lemon fruit/pear fruit/raspberry fruit/strawberry "
        "vegetables/broccoli vegetables/pepper vegetables/pumpkin_small vegetables/yellowpepper",
    ),
    "insect": _objects(
        "animals/insects", learned="fly grasshopper hornet xanthia", unseen="hoverfly mantis"
    ),
    "mammal": _objects(
        "animals",
        learned="mammals/apes/chimp mammals/aquatic/otter mammals/badger mammals/bears/bear "
        "mammals/bovines/bison mammals/bovines/bull mammals/bovines/cow mammals/bovines/gnu-baby "
        "mammals/bovines/gnu-baby-stand mammals/bovines/gnu-sitting mammals/bovines/gnu-stand "
        "mammals/bovines/goat mammals/bovines/ram mammals/bovines/sheep "
        "mammals/bovines/sheep_lamb mammals/bovines/yak mammals/camel/dromedary "
        "mammals/cats/lion mammals/cats/lion-2 mammals/cats/tiger mammals/deer/caribou "
        "mammals/deer/deer mammals/deer/doe mammals/dogs/dog mammals/dogs/fox mammals/elephant "
        "mammals/equines/donkey mammals/equines/donkey_eating mammals/equines/zebra "
        "mammals/ferret mammals/giraffe mammals/hippopotamus mammals/pig mammals/pig_golden "
        "mammals/pig_golden2 mammals/rabbit_little mammals/rodents/capybara "
        "mammals/rodents/marmot mammals/rodents/rabbit mammals/rodents/rat "
        "mammals/rodents/squirrel marsupials/wombat",
        validation="mammals/bovines/cow_white mammals/bovines/indian_blackbuck "
        "mammals/rodents/mouse marsupials/koala",
        unseen="mammals/apes/gorilla mammals/bears/european-bear mammals/bovines/mountaingoat "
        "mammals/bovines/zebu mammals/camel/camel mammals/cats/tiger_sumatran mammals/deer/wapiti "
        "mammals/dogs/dingo mammals/equines/horse mammals/rhino_black mammals/rodents/beaver "
        "mammals/rodents/rabbit-2 mammals/wildboar marsupials/kangaroo",
    ),
    "mushroom": _objects(
        "",
        learned="food/vegetables/mushroom plants/mushrooms/cep plants/mushrooms/cep-1",
        unseen="plants/mushrooms/cep-2",
    ),
    "musical instrument": _objects(
        "hobbies/music",
        learned="brass/trumpet percussion/cymbal_crash percussion/drumkit string/cello "
        "string/guitar_classical string/guitar_electric string/guitar_electric_bass wind/bassoon",
        validation="percussion/drum_tomtom_floor",
        unseen="string/guitar2 string/violin",
    ),
    "road sign": _objects(
        "town/roadsigns",
        learned="arrow crossroads give_way_sign hospital no_entry_sign roundabout stop t-junction "
        "toilets",
        validation="no_uturn",
        unseen="dead_end_sign school_sign xing_ped xing_school yield",
    ),
    "tool": _objects(
        "household",
        learned="arttools/scissors_small_closed arttools/scissors_small_open tools/hammer "
        "tools/measuring_tape tools/paintbrush_large tools/plyers tools/saw tools/wrench "
        "tools/wrench_adjustable",
        validation="tools/spade",
        unseen="tools/mallet_metal tools/wrench_plumbers",
    ),
    "vehicle": _objects(
        "vehicles",
        learned="auto/beetle auto/sedan auto/truck construction/dumper emergency/firetruck "
        "race/indycar",
        validation="garbagetruck",
        unseen="auto/sportscar2 masstransit/green_korean_bus",
    ),
}

NAMES: tuple[str, ...] = tuple(CLASSES)


def _backgrounds(names: str) -> tuple[str, ...]:
    return tuple(f"backgrounds/{name}.jpg" for name in names.split())


def _wallpapers(names: str) -> tuple[str, ...]:
    return tuple(f"wallpapers/{name}/contents/images/2560x1600.jpg" for name in names.split())


SCENES: dict[str, tuple[str, ...]] = {
    "learned": _backgrounds(
        "Bridge_by_Sander_Klootwijk Infinite-Sea_by_Aury88 aitzgorri_by_Aitzol_Berasategi "
        "greentock_by_Peter_Nerlich mate/nature/Aqua mate/nature/GreenMeadow "
        "mate/nature/RainDrops mate/nature/Wood"
    )
    + _wallpapers("BytheWater DarkestHour FallenLeaf Grey OneStandsOut"),
    "validation": _backgrounds("mate/nature/Blinds picosdeeuropa_by_Aitzol_Berasategi")
    + _wallpapers("ColdRipple Kite"),
    "unseen": _backgrounds(
        "life_by_Aitzol_Berasategi mate/nature/Dune mate/nature/Storm sunset_by_Aitzol_Berasategi"
    )
    + _wallpapers("Path summer_1am")
    + ("wallpapers/Volna/contents/images/5120x2880.jpg",),
}
"""Photographs that show none of the classes."""

PHOTOGRAPHS: dict[str, str] = {
    "backgrounds/Dragonfly_by_Bolly.jpg": "insect",
    "backgrounds/Kleiber_by_Lukas_Baubkus.jpg": "bird",
    "backgrounds/Picture_0B_by_freespace.jpg": "fruit or vegetable",
    "backgrounds/Wine_by_Jakkub_Mede.jpg": "musical instrument",
    "backgrounds/free_by_Peter_Nerlich.jpg": "bird",
    "backgrounds/friends_by_Aitzol_Berasategi.jpg": "mammal",
    "backgrounds/mate/nature/FreshFlower.jpg": "flower",
    "backgrounds/mate/nature/Garden.jpg": "flower",
    "backgrounds/mate/nature/YellowFlower.jpg": "flower",
    "wallpapers/ColorfulCups/contents/images/2560x1600.jpg": "cup or pot",
}
"""Photographs that show a class without composition: for a final check, never for training."""


FURTHER: tuple[str, ...] = (
    *_backgrounds("seeding_by_Clements_Engelhardt"),
    *_wallpapers("EveningGlow"),
)
"""Additional scenes of `benchmarks.datasets.confounded_birds`."""


def files() -> tuple[str, ...]:
    """Return every file of the splits, once."""
    paths = [path for group in SCENES.values() for path in group] + list(PHOTOGRAPHS)
    paths += FURTHER
    for objects in CLASSES.values():
        paths += [*objects.learned, *objects.validation, *objects.unseen]
    return tuple(dict.fromkeys(paths))
