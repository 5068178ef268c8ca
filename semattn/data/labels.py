"""Class numbers of the class names and numbers in a list or an archive."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ..errors import TargetError
from ..utils.class_names import matches, resolve_class
from .class_folders import numbers_of

NUMBER = re.compile(r"#?[0-9]{1,9}")
FLOAT = re.compile(r"([0-9]{1,9})\.0")  # integers as written by tables with empty cells
IN_ORDER = "its class names are numbered in alphabetical order"


def class_numbers(
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
    >>> class_numbers(["dog", "3"], ["cat", "dog"], 2)
    ({'dog': 1}, {'3': 'expected a class number from 0 to 1, got 3'})
    """
    unique = sorted(set(words))
    digits = {word: word for word in unique if NUMBER.fullmatch(word)}
    for word in unique:
        integer = FLOAT.fullmatch(word)
        if integer and not matches(word, names):
            digits[word] = integer[1]
    numbers, missing = numbers_of([word for word in unique if word not in digits], names, outputs)
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
