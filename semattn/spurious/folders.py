"""Which class of a model a folder is named for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..zoo import synsets

WORDNET = re.compile(r"n\d{8}")  # what ImageNet calls its folders


def numbers_of(
    folders: Sequence[str], names: Sequence[str], outputs: int
) -> tuple[dict[str, int], list[str]]:
    """The class number of each folder that has one, and the folders that have none.

    A folder is called as the class is, or as one of its synonyms (ImageNet's are parted by commas)
    that no other class has; or by its WordNet number, for models of ImageNet. Case and ``_`` do not
    matter. Where classes have no names, as many folders as outputs are numbered in their order.

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
    known = _known(names)
    if any(map(WORDNET.fullmatch, folders)):
        known = {one: number for number, one in enumerate(synsets(outputs))} | known
    found = {one: known[_plain(one)] for one in folders if _plain(one) in known}
    if not names and not found and len(folders) == outputs:
        found = {one: number for number, one in enumerate(folders)}
    return found, [one for one in folders if one not in found]


def _known(names: Sequence[str]) -> dict[str, int]:
    """Classes by name, and by each synonym that is of one class alone."""
    synonyms = [{_plain(part) for part in name.split(",")} for name in names]
    count = Counter(one for some in synonyms for one in some)
    known = {one: number for number, some in enumerate(synonyms)
             for one in some if count[one] == 1}  # fmt: skip
    return known | {_plain(name): number for number, name in enumerate(names)}


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())
