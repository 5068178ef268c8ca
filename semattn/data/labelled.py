"""Images of a data set with their labels, and the class numbers of folder and class names.

A data set is a folder (one folder per class, or pictures only), a map-style data set of pairs
(image, label) as in torchvision, or a sequence of images. Labels are class numbers of the model;
the predicted class replaces a label that is not known. Nothing here reads a picture.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import SemattnError, TargetError
from ..images import display_name
from ..utils.class_names import check_names, matches, resolve_class
from ..utils.remote_path import Location, RemotePath, to_path
from ..utils.validation import check_labels
from ..zoo import synsets
from .listing import (
    example_names,
    find_class_folders,
    is_picture,
    left_out_note,
    list_images,
    path_in,
)

SHOWN = 4  # names that an error or a note lists
PREDICTED = "{}: every image is searched under the class that the model predicts"
WITHOUT_LABEL = "the model predicts {} class; a search without a model leaves {} out"
WORDNET = re.compile(r"n\d{8}")  # folder names of ImageNet
NUMBER = re.compile(r"#?[0-9]{1,9}")
FLOAT = re.compile(r"([0-9]{1,9})\.0")  # integers as written by tables with empty cells
Item = TypeVar("Item")
IN_ORDER = "its class names are numbered in alphabetical order"


class Part(Sequence[Item]):
    """Part of a sequence whose items keep their numbers; `len` is the number of items."""

    def __init__(self, items: Sequence[Item], first: int) -> None:
        self.items, self.first = items, first

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: Any) -> Any:
        return self.items[number - self.first]


@dataclass(frozen=True)
class LabelledImages:
    """Images of a data set and their labels.

    Parameters
    ----------
    sources : paths or other image inputs of `prepare`; or pairs of an image and a label
    labels : class number of each image, None if not known; () if `sources` holds pairs
    names : class names of the model, () if it has none
    note : note on how the labels were obtained, "" for none
    strays : note on files that are left out, or are outside the class folders, "" for none
    broken : (name, reason) of the parts that could not be listed, such as damaged archives
    """

    sources: Sequence[Any]
    labels: tuple[int | None, ...]
    names: tuple[str, ...]
    note: str = ""
    strays: str = ""
    broken: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def about(self) -> dict[str, Any]:
        """Number of images, origin of the labels, and the parts that were not listed, for JSON."""
        broken = [list(name_and_reason) for name_and_reason in self.broken]
        return {"images": len(self), "labels": self.note or "given", "broken": broken}

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
        return display_name(self.sources[index]) or f"image {index}"


def read_labelled(dataset: Any, names: Sequence[str], outputs: int) -> LabelledImages:
    """Read a data set for a model with `outputs` classes, called `names` (() for none).

    Raises
    ------
    SemattnError
        For a path that is not a folder or has no images, and for objects that are not a data set.
    """
    names = tuple(names)
    if isinstance(dataset, LabelledImages):
        return dataset
    check_names(names, outputs)
    if isinstance(dataset, (str, os.PathLike, RemotePath)):
        return _folder(to_path(dataset), names, outputs)
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise SemattnError(
            f"dataset: expected a folder, a list of images or pairs (image, label) with a length, "
            f"got {type(dataset).__name__} — convert an iterator with list(…)"
        )
    if not len(dataset):
        raise SemattnError("dataset: expected images, got none — give at least two per class")
    first = dataset[0]
    if isinstance(first, (tuple, list)) and len(first) == 2:
        return LabelledImages(dataset, (), names)
    return LabelledImages(
        dataset, (None,) * len(dataset), names, PREDICTED.format("no labels are given")
    )


def _label(label: Any, index: int) -> int:
    """Return the label of one image as an integer, before its range is known."""
    return int(check_labels([label], 1, 2**31, f"label of image {index}")[0])


def _folder(folder: Location, names: tuple[str, ...], outputs: int) -> LabelledImages:
    if not folder.is_dir():
        problem = "which is a file" if folder.exists() else "which does not exist"
        raise SemattnError(f"dataset: expected a folder of images, got {folder}, {problem}")
    paths: Sequence[Location] = list_images(folder)
    classes, not_in_classes = find_class_folders(paths, folder)
    if not classes:
        predicted_note = PREDICTED.format("the folder has no class folders")
        return LabelledImages(paths, (None,) * len(paths), names, predicted_note)
    strays = [path for path in not_in_classes if is_picture(path)]
    left_out = sorted(set(not_in_classes) - set(strays))
    notes = (_strays_note(strays, folder), left_out_note(left_out, folder))
    if strays_note := "; ".join(filter(None, notes)):
        warnings.warn(strays_note, stacklevel=3)
    dropped = set(left_out)
    labelled = [path for path in paths if path not in dropped]
    numbers, missing = match_class_folders(classes, names, outputs)
    note = _unknown(missing, numbers, names)
    labels = tuple(numbers.get(path_in(path, folder).parts[0]) for path in labelled)
    class_names = names or (tuple(classes) if not note else ())
    return LabelledImages(labelled, labels, class_names, note, strays_note)


def _strays_note(strays: Sequence[Location], folder: Location) -> str:
    """Return the note on pictures outside the class folders."""
    if not strays:
        return ""
    where = f"outside the class folders ({example_names(strays, folder)})"
    if len(strays) == 1:
        return f"1 picture {where} has no label: {WITHOUT_LABEL.format('its', 'it')}"
    return f"{len(strays)} pictures {where} have no label: {WITHOUT_LABEL.format('their', 'them')}"


def _unknown(missing: list[str], numbers: dict[str, int], names: Sequence[str]) -> str:
    """Return the note on folders that name no class of the model, or more than one class."""
    if not missing:
        return ""
    folders = ", ".join(missing[:SHOWN]) + (", …" if len(missing) > SHOWN else "")
    verb = "is not a class" if len(missing) == 1 else "are not classes"
    shared = [folder for folder in missing if len(matches(folder, names)) > 1]
    ambiguous = f" ({', '.join(shared[:SHOWN])}: the name of more than one class)" if shared else ""
    return PREDICTED.format(f"{folders} {verb} of the model{ambiguous}") + " there" * bool(numbers)


def match_class_folders(
    folders: Sequence[str], names: Sequence[str], outputs: int
) -> tuple[dict[str, int], list[str]]:
    """Return the class number of each folder that has one, and the folders without a class.

    A folder has the name of one class, or one of its synonyms (see `class_names.matches`), or its
    WordNet number for ImageNet models. A name that more than one class has is not used. If the
    classes have no names and there are as many folders as outputs, folders are numbered in order.

    Parameters
    ----------
    folders : folder names
    names : class names, () if there are none
    outputs : number of outputs of the model

    Examples
    --------
    >>> names = ["tench, Tinca tinca", "great white, shark"]
    >>> match_class_folders(["tench", "Great_White"], names, 2)
    ({'tench': 0, 'Great_White': 1}, [])
    """
    wordnet: dict[str, int] = {}
    if any(map(WORDNET.fullmatch, folders)):
        wordnet = {synset: number for number, synset in enumerate(synsets(outputs))}
    numbers = {}
    for folder in folders:
        class_numbers = matches(folder, names)
        if len(class_numbers) == 1:
            numbers[folder] = class_numbers[0]
        elif not class_numbers and folder in wordnet:
            numbers[folder] = wordnet[folder]
    if not names and not numbers and len(folders) == outputs:
        _check_order(folders)
        numbers = {name: number for number, name in enumerate(folders)}
    return numbers, [folder for folder in folders if folder not in numbers]


def _check_order(folders: Sequence[str]) -> None:
    """Raise SemattnError for folders that are numbers but do not sort as numbers."""
    if not all(name.isdecimal() for name in folders):
        return
    for place, name in enumerate(folders):
        if int(name) != place and sorted(map(int, folders)) == list(range(len(folders))):
            raise SemattnError(
                f"dataset: expected folder names that identify a class, got {name!r}, which may be "
                f"class {int(name)} or, in order of names, class {place} — "
                "give the model its class names"
            )


def match_class_words(
    words: Iterable[str], names: Sequence[str], outputs: int
) -> tuple[dict[str, int], dict[str, str]]:
    """Return the class number of each word, and for the other words the reason why there is none.

    Parameters
    ----------
    words : class names, WordNet numbers, or class numbers; ``#3`` is always a number
    names : class names of the model, () if it has none
    outputs : number of outputs of the model; 0 if it has no classes

    Examples
    --------
    >>> match_class_words(["dog", "3"], ["cat", "dog"], 2)
    ({'dog': 1}, {'3': 'expected a class number from 0 to 1, got 3'})
    """
    unique = sorted(set(words))
    digits = {word: word for word in unique if NUMBER.fullmatch(word)}
    for word in unique:
        integer = FLOAT.fullmatch(word)
        if integer and not matches(word, names):
            digits[word] = integer[1]
    numbers, missing = match_class_folders(
        [word for word in unique if word not in digits], names, outputs
    )
    reasons = {}
    for word in (*digits, *missing):
        try:
            if word in missing and not matches(word, names):
                raise TargetError(f"target: expected a class of the model, got {word!r}")
            numbers[word] = resolve_class(digits.get(word, word), names, outputs or None)
        except TargetError as error:
            reasons[word] = str(error).removeprefix("target: ")
    return numbers, reasons


def counts_from_one(words: Iterable[str], outputs: int) -> bool:
    """Return whether class numbers run from 1 to the number of classes."""
    if not outputs:
        return False
    numbers = {int(word) for word in words if word.isascii() and word.isdigit()}
    return bool(numbers) and min(numbers) > 0 and max(numbers) == outputs
