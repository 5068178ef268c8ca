"""Export a split as folders: ``python -m benchmarks.datasets.objects_on_scenes.export FOLDER``.

Writes FOLDER/images/CLASS/NUMBER.png and FOLDER/masks/CLASS/NUMBER.png, white on the object, for
``semattn bench explain --data masks:FOLDER/images,FOLDER/masks``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from .dataset import SPLITS, ObjectsOnScenes
from .fetch import default_root


def export(data: ObjectsOnScenes, folder: Path) -> None:
    """Write every image and its mask; each file is written atomically."""
    for number in range(len(data)):
        composition = data[number]
        name = Path(data.classes[composition.label]) / f"{number:06}.png"
        for kind, pixels in (
            ("images", composition.image),
            ("masks", composition.mask.astype(np.uint8) * 255),
        ):
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(path.name + ".part")
            Image.fromarray(pixels).save(partial, format="PNG")
            partial.replace(path)


def main() -> None:
    """Export the development images, or the split of --split."""
    parser = argparse.ArgumentParser(description="Write a split as folders of images and masks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="validation", choices=sorted(SPLITS))
    parser.add_argument("--images", type=int, default=100, help="number of images (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the compositions (0)")
    parser.add_argument(
        "--root", type=Path, default=default_root(), help="folder of the fetched files"
    )
    options = parser.parse_args()
    export(
        ObjectsOnScenes(options.root, options.split, count=options.images, seed=options.seed),
        options.folder,
    )
    print(options.folder)


if __name__ == "__main__":
    main()
