"""Which class of a model a folder is named for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..class_names import matches
from ..errors import SemattnError
from ..zoo import synsets

WORDNET = re.compile(r"n\d{8}")  # what ImageNet calls its folders


def numbers_of(
    folders: Sequence[str], names: Sequence[str], outputs: int
) -> tuple[dict[str, int], list[str]]:
    """The class number of each folder that has one, and the folders that have none.

    A folder has the name of one class, or one of its synonyms (see `class_names.matches`); or its
    WordNet number, for models of ImageNet. A name that several classes share is none. Where
    classes have no names, as many folders as outputs are numbered in their order.

    Parameters
    ----------
    folders : their names
    names : of the classes, () where they have none
    outputs : of the model

    Examples
    --------
    >>> numbers_of(["tench", "Great_White"], ["tench, Tinca tinca", "great white, shark"], 2)
    ({'tench': 0, 'Great_White': 1}, [])
    """
    wordnet: dict[str, int] = {}
    if any(map(WORDNET.fullmatch, folders)):
        wordnet = {one: number for number, one in enumerate(synsets(outputs))}
    found = {}
    for folder in folders:
        named = matches(folder, names)
        if len(named) == 1:
            found[folder] = named[0]
        elif not named and folder in wordnet:
            found[folder] = wordnet[folder]
    if not names and not found and len(folders) == outputs:
        _check_order(folders)
        found = {one: number for number, one in enumerate(folders)}
    return found, [one for one in folders if one not in found]


def _check_order(folders: Sequence[str]) -> None:
    """Raise SemattnError for folders that are numbers but do not sort as numbers."""
    if not all(one.isdecimal() for one in folders):
        return
    for place, one in enumerate(folders):
        if int(one) != place and sorted(map(int, folders)) == list(range(len(folders))):
            raise SemattnError(
                f"dataset: expected folders whose names say which class they are, got {one!r}, "
                f"which may be class {int(one)}, or class {place} in order of names — "
                "give the model its class names"
            )
