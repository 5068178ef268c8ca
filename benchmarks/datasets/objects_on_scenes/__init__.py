"""Objects on scenes: images with an exactly known explanation.

Photographic cut-outs are pasted on photographs, as in Waterbirds and BAM: the alpha channel is the
exact mask, and object, scene and place are chosen independently. `fetch` downloads the files,
`catalog` lists them with their classes and splits, `compose` pastes, and `ObjectsOnScenes` is the
data set.
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
