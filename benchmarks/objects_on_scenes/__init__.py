"""Objects on scenes: images whose explanation is known to the pixel.

Photographic cut-outs pasted on photographs, as Waterbirds and BAM are built: the alpha channel is
the exact mask, and object, scene and place are chosen independently of each other. `fetch` brings
the files, `catalog` says what they show and who may see them, `compose` pastes, and
`ObjectsOnScenes` is the data set.
"""

from .catalog import CLASSES, NAMES, PHOTOGRAPHS, SCENES, Objects
from .compose import Placement
from .dataset import SPLITS, Composition, ObjectsOnScenes, cutout_of, scene_of, sheet

__all__ = [
    "CLASSES",
    "NAMES",
    "PHOTOGRAPHS",
    "SCENES",
    "SPLITS",
    "Composition",
    "Objects",
    "ObjectsOnScenes",
    "Placement",
    "cutout_of",
    "scene_of",
    "sheet",
]
