"""Images with the class under which each is searched.

A data set is a folder (one folder per class, or pictures only), a map-style data set of pairs
(image, label) as in torchvision, or a sequence of images. Labels are class numbers of the model;
the predicted class replaces a label that is not known.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SemattnError
from ..images import called
from ..utils.class_names import check_names, matches
from ..utils.validation import check_labels
from .class_folders import numbers_of
from .listing import listed
from .strays import by_class_folder, is_picture, left_out_note, named

SHOWN = 4  # names that an error or a note lists


@dataclass(frozen=True)
class Labelled:
    """Images of a data set and their labels.

    Parameters
    ----------
    sources : paths or other image inputs of `prepare`; or pairs of an image and a label
    labels : class number of each image, None if not known; () if `sources` holds pairs
    names : class names of the model, () if it has none
    note : note on how the labels were obtained, "" for none
    strays : note on files outside the class folders, "" for none
    """

    sources: Sequence[Any]
    labels: tuple[int | None, ...]
    names: tuple[str, ...]
    note: str = ""
    strays: str = ""

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> tuple[Any, int | None]:
        """Return an image and its label."""
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
        """Return the name of a class."""
        return self.names[number] if number < len(self.names) else f"class {number}"

    def source_name(self, index: int) -> str:
        """Return the name of an image."""
        return called(self.sources[index]) or f"image {index}"


def read(dataset: Any, names: Sequence[str], outputs: int) -> Labelled:
    """Read a data set for a model with `outputs` classes, called `names` (() for none).

    Raises
    ------
    SemattnError
        For a path that is not a folder or has no images, and for objects that are not a data set.
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
            f"got {type(dataset).__name__} — convert an iterator with list(…)"
        )
    if not len(dataset):
        raise SemattnError("dataset: expected images, got none — give at least two per class")
    first = dataset[0]
    if isinstance(first, (tuple, list)) and len(first) == 2:
        return Labelled(dataset, (), names)
    return Labelled(dataset, (None,) * len(dataset), names, PREDICTED.format("no labels are given"))


def _label(label: Any, index: int) -> int:
    """Return the label of one image as an integer, before its range is known."""
    return int(check_labels([label], 1, 2**31, f"label of image {index}")[0])


PREDICTED = "{}: every image is searched under the class that the model predicts"


def _folder(folder: Path, names: tuple[str, ...], outputs: int) -> Labelled:
    if not folder.is_dir():
        problem = "which is a file" if folder.exists() else "which does not exist"
        raise SemattnError(f"dataset: expected a folder of images, got {folder}, {problem}")
    paths = listed(folder)
    classes, not_in_classes = by_class_folder(paths, folder)
    if not classes:
        predicted_note = PREDICTED.format("the folder has no class folders")
        return Labelled(paths, (None,) * len(paths), names, predicted_note)
    strays = [path for path in not_in_classes if is_picture(path)]
    left_out = sorted(set(not_in_classes) - set(strays))
    notes = (_strays_note(strays, folder), left_out_note(left_out, folder))
    if strays_note := "; ".join(filter(None, notes)):
        warnings.warn(strays_note, stacklevel=3)
    dropped = set(left_out)
    labelled = [path for path in paths if path not in dropped]
    numbers, missing = numbers_of(classes, names, outputs)
    note = _unknown(missing, numbers, names)
    labels = tuple(numbers.get(path.relative_to(folder).parts[0]) for path in labelled)
    class_names = names or (tuple(classes) if not note else ())
    return Labelled(labelled, labels, class_names, note, strays_note)


def _strays_note(strays: Sequence[Path], folder: Path) -> str:
    """Return the note on pictures outside the class folders."""
    if not strays:
        return ""
    where = f"outside the class folders ({named(strays, folder)})"
    if len(strays) == 1:
        return f"1 picture {where} has no label: the model's predicted class is used"
    return f"{len(strays)} pictures {where} have no label: the model's predicted class is used"


def _unknown(missing: list[str], numbers: dict[str, int], names: Sequence[str]) -> str:
    """Return the note on folders that name no class of the model, or more than one class."""
    if not missing:
        return ""
    folders = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
    verb = "is not a class" if len(missing) == 1 else "are not classes"
    shared = [folder for folder in missing if len(matches(folder, names)) > 1]
    ambiguous = f" ({', '.join(shared[:SHOWN])}: the name of more than one class)" if shared else ""
    return PREDICTED.format(f"{folders} {verb} of the model{ambiguous}") + " there" * bool(numbers)
