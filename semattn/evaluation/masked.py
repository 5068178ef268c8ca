"""Images with the mask of their object, one at a time: folders, and what benchmarks are packed as.

A data set has a length, gives an `Item` by number, and says its `classes` (() where there are none)
and what it is (`about`, ready for JSON). `read("masks:IMAGES,MASKS")` makes one of what is typed.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..errors import ImageError, SemattnError
from ..images import listed, read as read_picture
from ..registry import Registry, choices

INSIDE = 127  # of a grey mask: what is above is the object


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


class Folder:
    """Images in a folder, by class if it holds folders, and masks of the same names in another.

    A mask is a grey picture of the image's size, white on the object; its ending may differ.
    Without a folder of masks, nobody knows where the objects are.

    Raises
    ------
    SemattnError
        For images without a mask, and masks of two endings for one image.
    """

    def __init__(self, images: Path, masks: Path | None = None) -> None:
        self.images, self.masks = images, masks
        self.paths = [one.relative_to(images) for one in listed(images)]
        parents = [one.parts[0] if len(one.parts) > 1 else None for one in self.paths]
        self.classes = tuple(sorted({one for one in parents if one})) if all(parents) else ()
        self.labels = [self.classes.index(str(one)) if self.classes else None for one in parents]
        self.about: dict[str, Any] = {
            "name": "masks" if masks else "folder", "root": images.name, "of": len(self.paths)
        }  # fmt: skip
        self.found: dict[Path, Path] = {}
        if masks is not None:
            every = [one.relative_to(masks) for one in listed(masks)]
            self.found = {one.with_suffix(""): one for one in every}
            twice = len(every) - len(self.found)
            missing = [one for one in self.paths if one.with_suffix("") not in self.found]
            if missing or twice:
                raise SemattnError(
                    f"masks: expected one of the name of each image, got none for {len(missing)}"
                    f"{f', such as {missing[0]}' if missing else ''}, and {twice} names twice"
                )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Item:
        path = self.paths[index]
        image = read_picture(self.images / path)
        mask = None
        if self.masks is not None:
            mask = grey(self.masks / self.found[path.with_suffix("")], image.size) > INSIDE
        return Item(path.as_posix(), image, mask, self.labels[index])


def grey(file: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask as it stands in its file, (H, W) uint8; a palette's numbers stay numbers.

    Raises
    ------
    ImageError
        For a file that is no picture, or of another size than (width, height).
    """
    try:
        with Image.open(file) as opened:
            if opened.size != size:
                raise ImageError(
                    f"mask: expected {size[0]}x{size[1]} pixels as the image has, got "
                    f"{opened.size[0]}x{opened.size[1]} in {file.name}"
                )
            return np.asarray(opened if opened.mode == "P" else opened.convert("L"))
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"mask: expected a picture, got {file} ({' '.join(str(error).split())})"
        ) from error


def whole(masks: Sequence[np.ndarray]) -> np.ndarray:
    """The union of masks of one size."""
    return np.logical_or.reduce(list(masks))


datasets["masks"] = lambda images, masks: Folder(images, masks)
datasets["folder"] = lambda images: Folder(images)
