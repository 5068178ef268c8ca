"""Images with object masks: folders, and access by the specification of a data set.

A data set has a length, a `MaskedImage` per index, `classes` (() if there are none) and `about` (a
description, ready for JSON). `open_masked("masks:IMAGES,MASKS")` opens a data set.
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

from ..errors import ImageError, SemattnError
from ..images import MaskEncoding, infer_mask_encoding, open_mask, read as read_picture, read_mask
from ..utils.registry import Registry, unknown_name_message
from .listing import (
    PHOTOGRAPHS,
    example_names,
    find_class_folders,
    is_picture,
    left_out_note,
    list_images,
)

SAMPLED_MASKS = 32  # masks of a folder from which the encoding is inferred
MAX_ENCODINGS = 4  # encodings that notes list


@dataclass(frozen=True)
class MaskedImage:
    """Image (RGB), its mask (H, W) of bool or None, and its class or None."""

    name: str
    image: Image.Image
    mask: np.ndarray | None
    label: int | None


class MaskedDataset(Protocol):
    """Data set for `evaluate`."""

    classes: tuple[str, ...]
    about: dict[str, Any]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> MaskedImage: ...


NamedInput = tuple[str, Any, "int | None"]  # name, file or value, number of the class

masked_datasets: Registry[Any] = Registry("data")
"""Functions by name; their arguments are the paths after the name, in order."""


def open_masked(spec: str) -> MaskedDataset:
    """Return the data set of `KIND:PATH,PATH`.

    Raises
    ------
    ValueError
        For an unknown kind, or a wrong number of paths.
    SemattnError
        As raised by the kind.
    """
    kind, colon, rest = spec.partition(":")
    paths = [part for part in rest.split(",") if part]
    if kind not in masked_datasets or not colon:
        raise ValueError(
            f"{unknown_name_message('data', kind, masked_datasets)}, followed by : and paths"
        )
    signature = inspect.signature(masked_datasets[kind])
    try:
        arguments = signature.bind(*(Path(part) for part in paths))
    except TypeError as error:
        arguments_text = [
            parameter.name.upper()
            if parameter.default is parameter.empty
            else f"[{parameter.name.upper()}]"
            for parameter in signature.parameters.values()
        ]
        raise ValueError(
            f"data: expected {kind}:{','.join(arguments_text)}, got {len(paths)} "
            f"{'path' if len(paths) == 1 else 'paths'} — give each, with commas between"
        ) from error
    data: MaskedDataset = masked_datasets[kind](*arguments.args)
    return data


def sources_of(data: Any, index: int) -> list[NamedInput]:
    """Return the inputs of an item: its image, and its mask if it has one.

    A data set with a method `sources` gives them without reading the item.
    """
    if hasattr(data, "sources"):
        return list(data.sources(index))
    item = data[index]
    image: NamedInput = (item.name, item.image, item.label)
    return [image] if item.mask is None else [image, (f"{item.name} mask", item.mask, None)]


class EvenSubset:
    """Evenly spaced subset of `count` images of a data set."""

    def __init__(self, data: MaskedDataset, count: int) -> None:
        self.data, self.classes = data, data.classes
        self.index = np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)
        self.about = {**data.about, "images": len(self.index)}

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: int) -> MaskedImage:
        return self.data[int(self.index[index])]

    def sources(self, index: int) -> list[NamedInput]:
        """Return the inputs of an item."""
        return sources_of(self.data, int(self.index[index]))


class MaskedFolder:
    """Folder of images, with class folders or without, and a folder of masks of the same names.

    A mask has the size of its image and any encoding that `semattn.images.read_mask` reads; its
    suffix may differ. Files that are not pictures are left out. Pictures outside the class folders
    have no label; without a mask, they are left out. Warnings state this. Without a folder of masks
    there are no masks.

    Raises
    ------
    SemattnError
        For images without a mask, and for two masks of one image.
    """

    def __init__(self, images: Path, masks: Path | None = None) -> None:
        self.images, self.masks = images, masks
        notes: list[str] = []
        paths = _pictures(images, notes)
        self.classes, outside = _classes(paths, images)
        self.by_stem = {} if masks is None else self._read_masks(masks, notes)
        no_mask = [path for path in outside if masks is not None and path not in self]
        labelled_paths = [path for path in paths if path not in set(no_mask)]
        if no_mask:
            notes.append(
                f"left out, outside the class folders and without a mask: {_summarize(no_mask)}"
            )
        if with_mask := [path for path in outside if path not in set(no_mask)]:
            notes.append(f"outside the class folders, without a label: {_summarize(with_mask)}")
        missing = [path for path in labelled_paths if masks is not None and path not in self]
        if missing:
            raise SemattnError(
                f"masks: expected a mask for each image, got none for {len(missing)}, such as "
                f"{missing[0]} — add it, or move the image away"
            )
        self.paths = labelled_paths
        parents = [None if path in set(outside) else path.parts[0] for path in labelled_paths]
        self.labels = [
            self.classes.index(str(parent)) if self.classes and parent else None
            for parent in parents
        ]
        self.about: dict[str, Any] = {
            "name": "masks" if masks else "folder", "root": images.name, "of": len(self.paths)
        }  # fmt: skip
        self.encoding: MaskEncoding | None = None
        self._empty_named = False
        if masks is not None:
            self._infer_encoding(notes)
        if notes:
            self.about["notes"] = notes
        for note in notes:
            warnings.warn(f"{self.about['name']}: {note}", stacklevel=3)

    def __contains__(self, path: Path) -> bool:
        """Return whether an image has a mask."""
        return path.with_suffix("") in self.by_stem

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> MaskedImage:
        path = self.paths[index]
        image = read_picture(self.images / path)
        mask = None
        if self.masks is not None:
            mask = read_mask(self._mask_of(path), image.size, self.encoding).inside
            if not mask.any() and not self._empty_named:
                self._empty_named = True  # warn once
                warnings.warn(
                    f"masks: the mask of {path.as_posix()} is empty (others may be too): metrics "
                    "that need an object leave this image out",
                    stacklevel=2,
                )
        return MaskedImage(path.as_posix(), image, mask, self.labels[index])

    def sources(self, index: int) -> list[NamedInput]:
        """Return the files of an item, and the encoding of masks."""
        path = self.paths[index]
        files: list[NamedInput] = [(path.as_posix(), self.images / path, self.labels[index])]
        if self.masks is not None:
            mask = self._mask_of(path)
            name = f"mask {mask.relative_to(self.masks).as_posix()}"
            files += [(name, mask, None), ("encoding", repr(self.encoding).encode(), None)]
        return files

    def _mask_of(self, path: Path) -> Path:
        assert self.masks is not None
        return self.masks / self.by_stem[path.with_suffix("")]

    def _read_masks(self, masks: Path, notes: list[str]) -> dict[Path, Path]:
        """Return the masks by their names without suffix."""
        paths = _pictures(masks, notes)
        by_stem = {path.with_suffix(""): path for path in paths}
        if twice := [path for path in paths if by_stem[path.with_suffix("")] != path]:
            raise SemattnError(
                f"masks: expected one mask per name, got {len(twice)} names twice, such as "
                f"{twice[0]} and {by_stem[twice[0].with_suffix('')]} — keep one of them"
            )
        return by_stem

    def _infer_encoding(self, notes: list[str]) -> None:
        """Infer the encoding of the masks from a sample, and note it."""
        picked = np.linspace(0, len(self.paths) - 1, min(SAMPLED_MASKS, len(self.paths)))
        files = [self._mask_of(self.paths[int(number)]) for number in picked.round()]
        self.encoding = infer_mask_encoding(files)
        readings: Counter[tuple[str, bool]] = Counter()
        for file in files:
            try:
                mask = read_mask(file, encoding=self.encoding)
            except ImageError:
                continue  # skipped with its reason when its image is measured
            if mask.inside.any():
                readings[mask.reading, mask.is_plain] += 1
        self.about["mask_reading"] = "; ".join(reading for reading, _ in readings)
        notes += [
            f"{reading} ({count} of {len(files)} sampled masks)"
            for (reading, is_plain), count in readings.most_common(MAX_ENCODINGS)
            if not is_plain
        ]


def _pictures(folder: Path, notes: list[str]) -> list[Path]:
    """Return the pictures below a folder, by relative path; note the other files."""
    paths = list_images(folder)
    pictures = [path for path in paths if is_picture(path)]
    if not pictures:
        raise SemattnError(f"data: expected pictures, got none in {folder} — give {PHOTOGRAPHS}")
    if note := left_out_note([path for path in paths if path not in set(pictures)], folder):
        notes.append(note)
    return [path.relative_to(folder) for path in pictures]


def _classes(paths: list[Path], images: Path) -> tuple[tuple[str, ...], list[Path]]:
    """Return the class folders and the pictures outside them; both empty without class folders."""
    classes, outside = find_class_folders([images / path for path in paths], images)
    return tuple(classes), [path.relative_to(images) for path in outside] if classes else []


def _summarize(paths: Sequence[Path]) -> str:
    """Return the number of files and the first names."""
    return f"{len(paths)} ({example_names(paths, Path())})"


def label_map(file: Path, size: tuple[int, int]) -> np.ndarray:
    """Return the labels (H, W) of a file, unchanged.

    Raises
    ------
    ImageError
        For a file that is not a picture, has another size than (width, height), or has no labels.
    """
    raw = open_mask(file, size)
    if raw.numbers is None or raw.alpha is not None or raw.lossy:
        raise ImageError(
            f"mask: expected labels in a palette or in one channel, got colours, alpha or a lossy "
            f"file in {file.name} — give the files of the data set as they were published"
        )
    return raw.numbers


def union_of(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Return the union of masks of one size."""
    return np.logical_or.reduce(list(masks))


masked_datasets["masks"] = lambda images, masks: MaskedFolder(images, masks)
masked_datasets["folder"] = lambda images: MaskedFolder(images)
