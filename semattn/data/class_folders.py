"""Class numbers of class folders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import SemattnError
from ..utils.class_names import matches
from ..zoo import synsets

WORDNET = re.compile(r"n\d{8}")  # folder names of ImageNet


def numbers_of(
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
    >>> numbers_of(["tench", "Great_White"], ["tench, Tinca tinca", "great white, shark"], 2)
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
