"""Second test sets of explanation maps: other objects on other scenes, and real photographs.

`compositions` gives `ObjectsOnScenes` with objects and scenes that no other data set uses, and
`Photographs` gives photographs that show a class without composition. `fetch` downloads the files,
`catalog` lists them.
"""

from .catalog import NEW_OBJECTS, OBJECTS, PHOTOGRAPHS, PLAIN, SCENES
from .photographs import Photograph, Photographs, compositions

__all__ = [
    "NEW_OBJECTS",
    "OBJECTS",
    "PHOTOGRAPHS",
    "PLAIN",
    "SCENES",
    "Photograph",
    "Photographs",
    "compositions",
]
