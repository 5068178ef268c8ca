"""Draw a contact sheet of a split: ``python -m benchmarks.datasets.objects_on_scenes.show``."""

from __future__ import annotations

import argparse
from pathlib import Path

from .dataset import SPLITS, ObjectsOnScenes, sheet
from .fetch import default_root


def main() -> None:
    """Draw and write the sheet, by default of the development images."""
    parser = argparse.ArgumentParser(description="A contact sheet, each mask outlined in red.")
    parser.add_argument("--split", default="validation", choices=sorted(SPLITS))
    parser.add_argument("--images", type=int, default=32, help="number of images (32)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the compositions (0)")
    parser.add_argument(
        "--root", type=Path, default=default_root(), help="folder of the fetched files"
    )
    parser.add_argument("--out", type=Path, default=Path("objects-on-scenes.png"))
    options = parser.parse_args()
    data = ObjectsOnScenes(options.root, options.split, count=options.images, seed=options.seed)
    page = sheet([data[number] for number in range(len(data))])
    partial = options.out.with_name(options.out.name + ".part")
    page.save(partial, format="PNG")
    partial.replace(options.out)
    print(options.out)


if __name__ == "__main__":
    main()
