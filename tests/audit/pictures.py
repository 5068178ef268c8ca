"""Small data sets for audits, and a model that is quick."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import tiny


def picture(number: int, side: int = 72) -> Image.Image:
    """Smooth noise with keypoints, another one for each number."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    return small.resize((side, side + number % 5), Image.Resampling.BICUBIC)


def folder(where: Path, count: int = 10, classes: int = 0) -> Path:
    """A folder of pictures, or of class folders."""
    for number in range(count):
        into = where / f"c{number % classes}" if classes else where
        into.mkdir(parents=True, exist_ok=True)
        picture(number).save(into / f"{number:03}.png")
    return where


def archive(file: Path, count: int = 4, first: int = 0, labels: bool = True) -> Path:
    """A tar file as WebDataset has it."""
    with tarfile.open(file, "w") as made:
        for number in range(first, first + count):
            stream = io.BytesIO()
            picture(number).save(stream, "PNG")
            parts = {f"{number:04}.png": stream.getvalue()}
            if labels:
                parts[f"{number:04}.cls"] = str(number % 3).encode()
            for name, content in parts.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                made.addfile(about, io.BytesIO(content))
    return file


def results(out: Path) -> dict[str, bytes]:
    """Every file of an audit but those that say how far it is."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not {".audit", ".semattn"} & set(path.parts)
    }


__all__ = ["archive", "folder", "picture", "results", "tiny"]
