"""Images with the mask of their object, one at a time: folders, and what benchmarks are packed as.

A data set has a length, gives an `Item` by number, and says its `classes` (() where there are none)
and what it is (`about`, ready for JSON). `read("masks:IMAGES,MASKS")` makes one of what is typed.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..data import by_class_folder, is_picture, left_out_note, listed, named
from ..errors import ImageError, SemattnError
from ..images import Coding, coding_of_masks, open_mask, read as read_picture, read_mask
from ..utils.registry import Registry, choices
from .row_store import Source, sources_of

LOOKED_AT = 32  # masks of a folder that decide together how all are read
SHOWN = 4  # readings that notes list


@dataclass(frozen=True)
class Item:
    """One image: RGB, its mask (H, W) of bool or None, its class or None."""

    name: str
    image: Image.Image
    mask: np.ndarray | None
    label: int | None


class Data(Protocol):
    """What `evaluate` takes."""

    classes: tuple[str, ...]
    about: dict[str, Any]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


datasets: dict[str, Any] = Registry("data")
"""Name to a function of the paths that stand behind it, in order."""


def read(spec: str) -> Data:
    """The data set of `KIND:PATH,PATH`.

    Raises
    ------
    ValueError
        For an unknown kind, or another number of paths.
    SemattnError
        As the kind does.
    """
    kind, colon, rest = spec.partition(":")
    paths = [part for part in rest.split(",") if part]
    if kind not in datasets or not colon:
        raise ValueError(f"{choices('data', kind, datasets)}, followed by : and paths")
    form = inspect.signature(datasets[kind])
    try:
        given = form.bind(*(Path(part) for part in paths))
    except TypeError as error:
        named = [
            one.name.upper() if one.default is one.empty else f"[{one.name.upper()}]"
            for one in form.parameters.values()
        ]
        raise ValueError(
            f"data: expected {kind}:{','.join(named)}, got {len(paths)} "
            f"{'path' if len(paths) == 1 else 'paths'} — give each, with commas between"
        ) from error
    made: Data = datasets[kind](*given.args)
    return made


class First:
    """`count` images of a data set, spread evenly over it."""

    def __init__(self, data: Data, count: int) -> None:
        self.data, self.classes = data, data.classes
        self.index = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)
        self.about = {**data.about, "images": len(self.index)}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> Item:
        return self.data[int(self.index[index])]

    def sources(self, index: int) -> list[Source]:
        """Return the inputs behind an item."""
        return sources_of(self.data, int(self.index[index]))


class Folder:
    """Images in a folder, by class if it holds folders, and masks of the same names in another.

    A mask has the image's size and any encoding that `semattn.images.read_mask` reads; its ending
    may differ. Files that are not pictures are left out. Where there are class folders, a picture
    that lies in none has no label, and is left out if it has no mask. A warning says so.
    Without a folder of masks, the objects are unknown.

    Raises
    ------
    SemattnError
        For images without a mask, and masks of two endings for one image.
    """

    def __init__(self, images: Path, masks: Path | None = None) -> None:
        self.images, self.masks = images, masks
        notes: list[str] = []
        paths = _pictures(images, notes)
        self.classes, beside = _classes(paths, images)
        self.by_stem = {} if masks is None else self._read_masks(masks, notes)
        no_mask = [path for path in beside if masks is not None and path not in self]
        kept = [path for path in paths if path not in set(no_mask)]
        if no_mask:
            notes.append(f"left out, beside the class folders without a mask: {_some(no_mask)}")
        if with_mask := [path for path in beside if path not in set(no_mask)]:
            notes.append(f"beside the class folders, without a label: {_some(with_mask)}")
        missing = [path for path in kept if masks is not None and path not in self]
        if missing:
            raise SemattnError(
                f"masks: expected one of the name of each image, got none for {len(missing)}, such "
                f"as {missing[0]} — add it, or move the image away"
            )
        self.paths = kept
        parents = [None if path in set(beside) else path.parts[0] for path in kept]
        self.labels = [
            self.classes.index(str(parent)) if self.classes and parent else None
            for parent in parents
        ]
        self.about: dict[str, Any] = {
            "name": "masks" if masks else "folder", "root": images.name, "of": len(self.paths)
        }  # fmt: skip
        self.coding: Coding | None = None
        self._empty_named = False
        if masks is not None:
            self._look_at_masks(notes)
        if notes:
            self.about["notes"] = notes
        for note in notes:
            warnings.warn(f"{self.about['name']}: {note}", stacklevel=3)

    def __contains__(self, path: Path) -> bool:
        """Return whether an image has a mask."""
        return path.with_suffix("") in self.by_stem

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        path = self.paths[index]
        image = read_picture(self.images / path)
        mask = None
        if self.masks is not None:
            mask = read_mask(self._mask_of(path), image.size, self.coding).inside
            if not mask.any() and not self._empty_named:
                self._empty_named = True  # one of them is enough
                warnings.warn(
                    f"masks: no object in the mask of {path.as_posix()} (and perhaps of others): "
                    "metrics that need an object leave it out",
                    stacklevel=2,
                )
        return Item(path.as_posix(), image, mask, self.labels[index])

    def sources(self, index: int) -> list[Source]:
        """Return the files behind an item, and how masks are read."""
        path = self.paths[index]
        files: list[Source] = [(path.as_posix(), self.images / path, self.labels[index])]
        if self.masks is not None:
            mask = self._mask_of(path)
            name = f"mask {mask.relative_to(self.masks).as_posix()}"
            files += [(name, mask, None), ("coding", repr(self.coding).encode(), None)]
        return files

    def _mask_of(self, path: Path) -> Path:
        assert self.masks is not None
        return self.masks / self.by_stem[path.with_suffix("")]

    def _read_masks(self, masks: Path, notes: list[str]) -> dict[Path, Path]:
        """The masks by their names without an ending."""
        every = _pictures(masks, notes)
        by_stem = {path.with_suffix(""): path for path in every}
        if twice := [path for path in every if by_stem[path.with_suffix("")] != path]:
            raise SemattnError(
                f"masks: expected one mask a name, got {len(twice)} names twice, such as "
                f"{twice[0]} and {by_stem[twice[0].with_suffix('')]} — keep one of them"
            )
        return by_stem

    def _look_at_masks(self, notes: list[str]) -> None:
        """Decide from a sample how the masks are read, and say so."""
        picked = np.linspace(0, len(self.paths) - 1, min(LOOKED_AT, len(self.paths)))
        files = [self._mask_of(self.paths[int(number)]) for number in picked.round()]
        self.coding = coding_of_masks(files)
        readings: Counter[tuple[str, bool]] = Counter()
        for file in files:
            try:
                found = read_mask(file, coding=self.coding)
            except ImageError:
                continue  # skipped with its reason, when its image is measured
            if found.inside.any():
                readings[found.reading, found.is_plain] += 1
        self.about["mask_reading"] = "; ".join(reading for reading, _ in readings)
        notes += [
            f"{reading} ({count} of the {len(files)} masks looked at)"
            for (reading, is_plain), count in readings.most_common(SHOWN)
            if not is_plain
        ]


def _pictures(folder: Path, notes: list[str]) -> list[Path]:
    """The pictures below a folder, by their paths in it; a note tells of other files."""
    every = listed(folder)
    pictures = [path for path in every if is_picture(path)]
    if not pictures:
        raise SemattnError(f"data: expected pictures, got none in {folder} — give photographs")
    if note := left_out_note([path for path in every if path not in set(pictures)], folder):
        notes.append(note)
    return [path.relative_to(folder) for path in pictures]


def _classes(paths: list[Path], images: Path) -> tuple[tuple[str, ...], list[Path]]:
    """The class folders, and the pictures that lie in none; without such folders all are ()."""
    classes, beside = by_class_folder([images / path for path in paths], images)
    return tuple(classes), [path.relative_to(images) for path in beside] if classes else []


def _some(paths: Sequence[Path]) -> str:
    """How many files, and the first of their names."""
    return f"{len(paths)} ({named(paths, Path())})"


def label_map(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the labels (H, W) of a file, as they stand in it.

    Raises
    ------
    ImageError
        For a file that is no picture, of another size than (width, height), or without labels.
    """
    raw = open_mask(file, size)
    if raw.numbers is None or raw.alpha is not None or raw.lossy:
        raise ImageError(
            f"mask: expected labels in a palette or in one channel, got colours, alpha or a lossy "
            f"file in {file.name} — give the files of the data set as they were published"
        )
    return raw.numbers


def whole(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The union of masks of one size."""
    return np.logical_or.reduce(list(masks))


datasets["masks"] = lambda images, masks: Folder(images, masks)
datasets["folder"] = lambda images: Folder(images)
