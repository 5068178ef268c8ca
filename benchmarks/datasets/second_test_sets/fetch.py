"""Fetch the files: ``python -m benchmarks.datasets.second_test_sets.fetch``.

The packages are downloaded and checked as those of `objects_on_scenes`. The photographs are
resources of GCompris under Creative Commons licences, the GPL or in the public domain (see
`copyright` in the folder); they are stored in the user's cache and are not part of this repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from semattn.utils.atomic_files import atomic_write
from semattn.zoo.weights import cache_dir

from ..objects_on_scenes import fetch as packages
from .catalog import PLAIN, cutout_path, photographs, stamps
from .cutouts import cut_out
from .qt_resources import read_resources

STAMPS = "tuxpaint-stamps-default=2022.06.04-1"
PACKAGES: dict[str, str] = {
    STAMPS: packages.PACKAGES[STAMPS],
    "gcompris-qt-data=3.1-2": ("e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f"),
}


def default_root() -> Path:
    """Return the default folder of the data."""
    return cache_dir() / "second-test-sets"


def resource_files() -> dict[str, list[str]]:
    """Return the photographs of each resource file, by its path in the package."""
    files: dict[str, list[str]] = {}
    for path in photographs():
        activity = path.split("/")[1]
        files.setdefault(f"gcompris-qt/rcc/{activity}.rcc", []).append(path)
    return files


def fetch(root: Path, debs: Path | None = None) -> None:
    """Fetch every file of the catalogue into `root`, and make the cut-outs.

    Parameters
    ----------
    root : folder for the files, created if missing
    debs : folder with downloaded packages; default: apt downloads them

    Raises
    ------
    FetchError
        As `objects_on_scenes.fetch.fetch`.
    """
    resources = resource_files()
    packages.fetch(root, debs, PACKAGES, (*stamps(), *resources))
    for resource, paths in resources.items():
        extract(root, root / resource, paths)
    for path, plain in PLAIN.items():
        target = root / cutout_path(path)
        if not target.exists():
            with Image.open(root / path) as photograph:
                cutout = cut_out(photograph, plain)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(target) as stream:
                cutout.save(stream, format="PNG")


def extract(root: Path, resource: Path, paths: Iterable[str]) -> None:
    """Write the photographs of a resource file that are missing."""
    missing = [path for path in paths if not (root / path).exists()]
    if not missing:
        return
    path_of_name = {f"gcompris/src/activities/{path.partition('/')[2]}": path for path in missing}
    contents = read_resources(resource.read_bytes(), path_of_name)
    for name, path in path_of_name.items():
        if name not in contents:
            raise packages.FetchError(
                f"{resource}: expected {name}, got no such file — report this"
            )
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(root / path) as stream:
            stream.write(contents[name])


def main() -> int:
    """Fetch the data and print its folder."""
    parser = argparse.ArgumentParser(description="Fetch the files of the second test sets.")
    parser.add_argument("--root", type=Path, default=default_root(), help="folder for the files")
    parser.add_argument("--debs", type=Path, help="folder with downloaded packages")
    arguments = parser.parse_args()
    try:
        fetch(arguments.root, arguments.debs)
    except packages.FetchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(photographs()) + len(stamps())} files in {arguments.root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
