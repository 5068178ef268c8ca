"""Data sets with groups in local folders: Waterbirds and ImageNet-9.

Both yield (image, label, group) for a DataLoader, as `AttentionPrompter.calibrate` and `evaluate`
expect.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from semattn.data import list_images
from semattn.images import read

Transform = Callable[[Image.Image], Tensor]

WATERBIRDS_SPLITS = ("train", "validation", "test")
WATERBIRDS_GROUPS = (
    "landbird on land", "landbird on water", "waterbird on land", "waterbird on water",
)  # fmt: skip
IMAGENET9_VARIANTS = ("original", "mixed_same", "mixed_rand")


@dataclass(frozen=True)
class Row:
    """One image of a folder."""

    path: Path
    label: int
    group: str


class GroupFolder(Dataset[tuple[Tensor, int, str]]):
    """Data set of the rows of a folder, which are read on access."""

    def __init__(self, rows: Sequence[Row], classes: Sequence[str], transform: Transform) -> None:
        self.rows, self.classes, self.transform = list(rows), tuple(classes), transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        row = self.rows[index]
        return self.transform(read(row.path)), row.label, row.group


def waterbirds(root: Path | str, split: str, transform: Transform) -> GroupFolder:
    """Return Waterbirds (Sagawa et al., arXiv 1911.08731) in the layout of its authors.

    Parameters
    ----------
    root : the folder that holds `metadata.csv`
    split : "train", "validation" or "test"
    transform : from a picture to the model's input

    Raises
    ------
    ValueError
        For a folder without that file or its columns, or an unknown split.
    """
    table = Path(root) / "metadata.csv"
    if split not in WATERBIRDS_SPLITS:
        raise ValueError(f"split: expected {', '.join(WATERBIRDS_SPLITS)}, got {split!r}")
    if not table.is_file():
        raise ValueError(f"waterbirds: expected {table}, got no such file — give the folder of it")
    with table.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    needed = {"img_filename", "y", "split", "place"}
    if not lines or not needed <= lines[0].keys():
        actual = ", ".join(lines[0]) if lines else "nothing"
        raise ValueError(
            f"metadata.csv: expected columns {', '.join(sorted(needed))}, got {actual}"
        )
    rows = [
        Row(
            Path(root) / line["img_filename"],
            int(line["y"]),
            WATERBIRDS_GROUPS[2 * int(line["y"]) + int(line["place"])],
        )
        for line in lines
        if int(line["split"]) == WATERBIRDS_SPLITS.index(split)
    ]
    return GroupFolder(rows, ("landbird", "waterbird"), transform)


def imagenet9(
    root: Path | str,
    transform: Transform,
    variants: Sequence[str] = IMAGENET9_VARIANTS,
    split: str = "val",
) -> GroupFolder:
    """Return ImageNet-9 ("Backgrounds Challenge", Xiao et al., arXiv 2006.09994), by variant.

    Parameters
    ----------
    root : the folder that holds `original`, `mixed_rand`, …, each with `val/<class>/*`
    transform : from a picture to the model's input
    variants : folders to use
    split : the folder in each variant

    Raises
    ------
    ValueError
        For a missing variant, or variants with different classes.
    """
    rows: list[Row] = []
    classes: list[str] = []
    for variant in variants:
        folder = Path(root) / variant / split
        names = (
            sorted(subfolder.name for subfolder in folder.iterdir() if subfolder.is_dir())
            if folder.is_dir()
            else []
        )
        if not names or (classes and names != classes):
            raise ValueError(
                f"imagenet9: expected {folder} to hold {len(classes) or 9} classes as folders, "
                f"got {len(names)} — give the folder with original, mixed_rand, …"
            )
        classes = names
        for label, name in enumerate(classes):
            rows += [Row(Path(path), label, variant) for path in list_images(folder / name)]
    return GroupFolder(rows, classes, transform)


def loader(data: GroupFolder, batch: int = 64, workers: int = 0) -> Any:
    """Return a DataLoader of a folder."""
    from torch.utils.data import DataLoader

    return DataLoader(data, batch_size=batch, num_workers=workers)
