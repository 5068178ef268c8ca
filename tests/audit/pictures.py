"""Small data sets for audits, and a fast model."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import tiny


def picture(number: int, side: int = 72) -> Image.Image:
    """Return smooth noise with keypoints, different for each number."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    return small.resize((side, side + number % 5), Image.Resampling.BICUBIC)


def folder(where: Path, count: int = 10, classes: int = 0) -> Path:
    """Write a folder of pictures, or of class folders."""
    for number in range(count):
        into = where / f"c{number % classes}" if classes else where
        into.mkdir(parents=True, exist_ok=True)
        picture(number).save(into / f"{number:03}.png")
    return where


def archive(file: Path, count: int = 4, first: int = 0, labels: bool = True) -> Path:
    """Write a tar file in the format of WebDataset."""
    with tarfile.open(file, "w") as tar:
        for number in range(first, first + count):
            stream = io.BytesIO()
            picture(number).save(stream, "PNG")
            members = {f"{number:04}.png": stream.getvalue()}
            if labels:
                members[f"{number:04}.cls"] = str(number % 3).encode()
            for name, content in members.items():
                about = tarfile.TarInfo(name)
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return file


def results(out: Path) -> dict[str, bytes]:
    """Return every file of an audit except those of its progress."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not {".audit", ".semattn"} & set(path.parts)
    }


__all__ = ["archive", "folder", "picture", "results", "tiny"]
