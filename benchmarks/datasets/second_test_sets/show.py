"""Draw contact sheets: ``python -m benchmarks.datasets.second_test_sets.show``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ..objects_on_scenes import Composition, sheet
from .fetch import default_root
from .photographs import Photographs, compositions


def main() -> None:
    """Draw and write the sheets of the compositions and of the photographs."""
    parser = argparse.ArgumentParser(description="Contact sheets, each mask outlined in red.")
    parser.add_argument("--images", type=int, default=39, help="number of images (39)")
    parser.add_argument(
        "--root", type=Path, default=default_root(), help="folder of the fetched files"
    )
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the sheets")
    options = parser.parse_args()
    photographs = [
        Composition(
            np.asarray(item.image),
            np.zeros(item.image.size, bool) if item.mask is None else item.mask,
            item.label, item.name, "", 1.0, 0.0,
        )
        for item in Photographs(options.root, count=options.images)
    ]  # fmt: skip
    for name, items in (
        ("compositions", list(compositions(options.root, options.images))),
        ("photographs", photographs),
    ):
        target = options.out / f"{name}.png"
        sheet(items).save(target, format="PNG")
        print(target)


if __name__ == "__main__":
    main()
