"""Images with the classes that they are searched under, one at a time.

A data set is a folder (of one folder a class, or of pictures alone), a map-style data set of pairs
(image, label) as torchvision's are, or a sequence of images. Labels are the model's class numbers;
where nobody knows them, the model's own answers take their place.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checks import check_labels
from ..class_names import check_names, matches
from ..errors import SemattnError
from ..images import by_class_folder, called, is_picture, left_out_note, listed, named
from .folders import numbers_of

SHOWN = 4  # names that an error or a note lists


@dataclass(frozen=True)
class Labelled:
    """Where the images are and what they show.

    Parameters
    ----------
    sources : a path, or whatever `prepare` takes; or pairs of that and a label
    labels : a class number for each, None where nobody knows; () where pairs say it
    names : of the model's classes, () where they have none
    note : what a reader should know of how the labels came about, "" for nothing
    strays : what lies beside the class folders of a folder, and what becomes of it, "" for nothing
    """

    sources: Sequence[Any]
    labels: tuple[int | None, ...]
    names: tuple[str, ...]
    note: str = ""
    strays: str = ""

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Any, int | None]:
        """The image, and its label."""
        if self.labels:
            return self.sources[index], self.labels[index]
        pair = self.sources[index]
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise SemattnError(
                f"dataset: expected pairs (image, label), got {type(pair).__name__} at {index} — "
                "give images alone as a list"
            )
        return pair[0], None if pair[1] is None else _label(pair[1], index)

    def name(self, number: int) -> str:
        """What a class is called."""
        return self.names[number] if number < len(self.names) else f"class {number}"

    def source_name(self, index: int) -> str:
        """What an image is called."""
        return called(self.sources[index]) or f"image {index}"


def read(dataset: Any, names: Sequence[str], outputs: int) -> Labelled:
    """Read a data set for a model with `outputs` classes, called `names` (() for none).

    Raises
    ------
    SemattnError
        For a folder that is none or empty, and for what is no data set.
    """
    names = tuple(names)
    if isinstance(dataset, Labelled):
        return dataset
    check_names(names, outputs)
    if isinstance(dataset, (str, os.PathLike)):
        return _folder(Path(dataset), names, outputs)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise SemattnError(
            f"dataset: expected a folder, a list of images or pairs (image, label) with a length, "
            f"got {type(dataset).__name__} — list(…) makes one of an iterator"
        )
    if not len(dataset):
        raise SemattnError("dataset: expected images, got none — give at least two a class")
    first = dataset[0]
    if isinstance(first, (tuple, list)) and len(first) == 2:
        return Labelled(dataset, (), names)
    return Labelled(dataset, (None,) * len(dataset), names, PREDICTED.format("no labels are given"))


def _label(given: Any, index: int) -> int:
    """A label of one image as an integer; its range is checked with the model's outputs."""
    return int(check_labels([given], 1, 2**31, f"label of image {index}")[0])


PREDICTED = "{}: every image is searched under the class that the model predicts"


def _folder(folder: Path, names: tuple[str, ...], outputs: int) -> Labelled:
    if not folder.is_dir():
        what = "which is a file" if folder.exists() else "which does not exist"
        raise SemattnError(f"dataset: expected a folder of images, got {folder}, {what}")
    paths = listed(folder)
    classes, beside = by_class_folder(paths, folder)
    if not classes:
        said = PREDICTED.format("the folder has no class folders")
        return Labelled(paths, (None,) * len(paths), names, said)
    strays = [path for path in beside if is_picture(path)]
    left_out = sorted(set(beside) - set(strays))
    notes = (_strays_note(strays, folder), left_out_note(left_out, folder))
    if strays_note := "; ".join(filter(None, notes)):
        warnings.warn(strays_note, stacklevel=3)
    dropped = set(left_out)
    kept = [path for path in paths if path not in dropped]
    numbers, missing = numbers_of(classes, names, outputs)
    note = _unknown(missing, numbers, names)
    labels = tuple(numbers.get(path.relative_to(folder).parts[0]) for path in kept)
    known = names or (tuple(classes) if not note else ())
    return Labelled(kept, labels, known, note, strays_note)


def _strays_note(strays: Sequence[Path], folder: Path) -> str:
    """The note on pictures that lie beside the class folders."""
    if not strays:
        return ""
    where = f"beside the class folders ({named(strays, folder)})"
    if len(strays) == 1:
        return f"1 picture {where} has no label: the class that the model predicts counts for it"
    return (
        f"{len(strays)} pictures {where} have no label: the class that the model predicts counts "
        "for them"
    )


def _unknown(missing: list[str], known: dict[str, int], names: Sequence[str]) -> str:
    """The note on folders that are no class of the model, or that name several."""
    if not missing:
        return ""
    some = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
    what = "is no class" if len(missing) == 1 else "are no classes"
    shared = [one for one in missing if len(matches(one, names)) > 1]
    several = f" ({', '.join(shared[:SHOWN])}: the name of several classes)" if shared else ""
    return PREDICTED.format(f"{some} {what} of the model{several}") + " there" * bool(known)
