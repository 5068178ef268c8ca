"""A split as folders that any tool reads: ``python -m benchmarks.objects_on_scenes.export FOLDER``.

FOLDER/images/CLASS/NUMBER.png and FOLDER/masks/CLASS/NUMBER.png, white on the object: what
``semattn bench explain --data masks:FOLDER/images,FOLDER/masks`` takes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import SPLITS, ObjectsOnScenes
from .fetch import default_root


def export(data: ObjectsOnScenes, folder: Path) -> None:
    """Write every image and its mask; a file has its name when it is whole."""
    for number in range(len(data)):
        one = data[number]
        place = Path(data.classes[one.label]) / f"{number:06}.png"
        for kind, pixels in (("images", one.image), ("masks", one.mask.astype(np.uint8) * 255)):
            file = folder / kind / place
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(file.name + ".part")
            Image.fromarray(pixels).save(partial, format="PNG")
            partial.replace(file)


def main() -> None:
    """Export the development images, unless another split is named."""
    parser = argparse.ArgumentParser(description="Write a split as folders of images and masks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="validation", choices=sorted(SPLITS))
    parser.add_argument("--images", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the compositions (0)")
    parser.add_argument("--root", type=Path, default=default_root(), help="where the files are")
    options = parser.parse_args()
    export(
        ObjectsOnScenes(options.root, options.split, count=options.images, seed=options.seed),
        options.folder,
    )
    print(options.folder)


if __name__ == "__main__":
    main()
