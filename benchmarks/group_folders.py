"""Readers of data sets with groups that people have on their disks: Waterbirds, ImageNet-9.

Both give (image, label, group) for a DataLoader, as `AttentionPrompter.calibrate` and `evaluate`
take them.
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

from semattn.data import listed
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
    """Rows of a folder, read as they are asked for."""

    def __init__(self, rows: Sequence[Row], classes: Sequence[str], transform: Transform) -> None:
        self.rows, self.classes, self.transform = list(rows), tuple(classes), transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        row = self.rows[index]
        return self.transform(read(row.path)), row.label, row.group


def waterbirds(root: Path | str, split: str, transform: Transform) -> GroupFolder:
    """Waterbirds (Sagawa et al., arXiv 1911.08731), as its authors pack it.

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
        got = ", ".join(lines[0]) if lines else "nothing"
        raise ValueError(f"metadata.csv: expected columns {', '.join(sorted(needed))}, got {got}")
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
    """ImageNet-9, "Backgrounds Challenge" (Xiao et al., arXiv 2006.09994); groups are variants.

    Parameters
    ----------
    root : the folder that holds `original`, `mixed_rand`, …, each with `val/<class>/*`
    transform : from a picture to the model's input
    variants : which of them
    split : the folder in each variant

    Raises
    ------
    ValueError
        For a variant that is not there, or variants of other classes.
    """
    rows: list[Row] = []
    classes: list[str] = []
    for variant in variants:
        folder = Path(root) / variant / split
        found = (
            sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []
        )
        if not found or (classes and found != classes):
            raise ValueError(
                f"imagenet9: expected {folder} to hold {len(classes) or 9} classes as folders, "
                f"got {len(found)} — give the folder with original, mixed_rand, …"
            )
        classes = found
        for label, name in enumerate(classes):
            rows += [Row(Path(path), label, variant) for path in listed(folder / name)]
    return GroupFolder(rows, classes, transform)


def loader(data: GroupFolder, batch: int = 64, workers: int = 0) -> Any:
    """The DataLoader of a folder."""
    from torch.utils.data import DataLoader

    return DataLoader(data, batch_size=batch, num_workers=workers)
