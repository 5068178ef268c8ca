"""Class names of a model, and the class number of a name.

Every command and function that accepts a class by name calls `resolve_class`.
This module imports no model code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SemattnError, TargetError, plain

LISTED = 12  # names that an error lists
_NUMBER = re.compile(r"[0-9]{1,18}")
_PLACEHOLDER = "LABEL_"  # prefix of the placeholder names of transformers


def class_names(model: Any) -> tuple[str, ...] | None:
    """Return the class names of a model: `classes`, or `id2label` of its config; None without."""
    names = getattr(model, "classes", None)
    id2label = getattr(getattr(model, "config", None), "id2label", None)
    if (
        names is None
        and isinstance(id2label, Mapping)
        and id2label.keys() == set(range(len(id2label)))
    ):
        names = [id2label[number] for number in range(len(id2label))]
        if names == [f"{_PLACEHOLDER}{number}" for number in range(len(id2label))]:
            return None
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def check_names(names: Sequence[str] | None, outputs: int, *, binary: bool = False) -> None:
    """Raise SemattnError unless there is one name for each output.

    Parameters
    ----------
    names : the class names; None and () are accepted
    outputs : number of outputs of the model
    binary : whether a single output stands for two classes; then one or two names are accepted

    Examples
    --------
    >>> check_names(["cat", "dog"], 3)
    Traceback (most recent call last):
    semattn.errors.SemattnError: class names: expected 3, one name for each output of the model, \
got 2 — give a list of 3 names, or none
    """
    if names and len(names) != outputs and not (binary and len(names) in (1, 2)):
        raise SemattnError(
            f"class names: expected {outputs}, one name for each output of the model, got "
            f"{len(names)} — give a list of {outputs} names, or none"
        )


def resolve_class(spec: int | str, names: Sequence[str] | None, outputs: int | None = None) -> int:
    """Return the class number of a class name or number.

    A name is a full class name, or one of its comma-separated synonyms, in upper or lower case. It
    must belong to exactly one class. Digits are a class number, unless they are also the name of
    another class. ``#3`` is always the number 3.

    Parameters
    ----------
    spec : a class number, or the text that a user typed
    names : the class names; None or () if the model has none
    outputs : number of classes; None is the number of names, if there are any

    Raises
    ------
    TargetError
        For an unknown or ambiguous name, or a number out of range; the message lists candidates.

    Examples
    --------
    >>> names = ["tench, Tinca tinca", "crane", "heron", "crane"]
    >>> resolve_class("Tinca tinca", names), resolve_class("#3", names)
    (0, 3)
    >>> resolve_class("crane", names)
    Traceback (most recent call last):
    semattn.errors.TargetError: target: expected one class, got 'crane', which may be #1 'crane' \
or #3 'crane' — give the number, such as #1
    """
    names = tuple(names or ())
    outputs = outputs if outputs is not None else len(names) or None
    if not isinstance(spec, str):
        return _check_range(int(spec), outputs)
    text = spec.strip()
    if text.startswith("#") and _NUMBER.fullmatch(text[1:]):
        return _check_range(int(text[1:]), outputs)
    candidates = matches(text, names)
    if _NUMBER.fullmatch(text):
        number = int(text)
        if not candidates:
            return _check_range(number, outputs)
        if outputs is None or number < outputs:
            candidates = sorted({*candidates, number})
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listing = " or ".join(f"#{number} {names[number]!r}" for number in candidates[:LISTED])
        raise TargetError(
            f"target: expected one class, got {spec!r}, which may be {listing} — give the "
            f"number, such as #{candidates[0]}"
        )
    raise TargetError(_unknown_class_message(spec, names))


def is_number(text: str, names: Sequence[str]) -> bool:
    """Return whether `resolve_class` reads a text as a number: ``#3``, or digits that are no name.

    Examples
    --------
    >>> is_number("3", ["cat", "dog"]), is_number("#3", []), is_number("3", ["3", "4"])
    (True, True, False)
    """
    text = text.strip()
    is_digits = bool(_NUMBER.fullmatch(text)) and not matches(text, names)
    return is_digits or (text.startswith("#") and bool(_NUMBER.fullmatch(text[1:])))


def binary_names(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the negative and the positive answer; () without one or two names.

    Examples
    --------
    >>> binary_names(["cat", "dog"]), binary_names(["ill"]), binary_names(None)
    (('cat', 'dog'), ('not ill', 'ill'), ())
    """
    if names is not None and len(names) == 1:
        return f"not {names[0]}", names[0]
    return tuple(names) if names is not None and len(names) == 2 else ()


def matches(text: str, names: Sequence[str]) -> list[int]:
    """Return the classes with this full name, or else the classes with this synonym."""
    query = normalized(text)
    if not query:
        return []
    exact = [number for number, name in enumerate(names) if normalized(name) == query]
    return exact or [number for number, name in enumerate(names) if query in synonyms(name)]


def synonyms(name: str) -> set[str]:
    """Return the normalized synonyms in a class name, separated by commas or "or"."""
    return {normalized(part) for part in re.split(r",| or ", name)} - {""}


def normalized(name: str) -> str:
    """Return a name in case-folded form; underscores and repeated spaces become one space."""
    return " ".join(name.casefold().replace("_", " ").split())


def _check_range(number: int, outputs: int | None) -> int:
    if number < 0 or (outputs is not None and number >= outputs):
        most = "" if outputs is None else f" to {outputs - 1}"
        raise TargetError(f"target: expected a class number from 0{most}, got {number}")
    return number


def _unknown_class_message(text: str, names: tuple[str, ...]) -> str:
    if not names:
        return (
            f"target: expected a class number, got {text!r} — the model has no class names; set "
            "model.classes = [names], or give --class-names FILE on the command line"
        )
    names_by_part: dict[str, str] = {}
    for name in names:
        for part in (normalized(name), *sorted(synonyms(name))):
            names_by_part.setdefault(part, name)
    near = difflib.get_close_matches(normalized(text), names_by_part, n=1, cutoff=0.5)
    hint = f"did you mean {names_by_part[near[0]]!r}? " if near else ""
    listed = ", ".join(plain(name) for name in names[:LISTED])
    more = ", …" if len(names) > LISTED else ""
    return f"target: unknown class {text!r} — {hint}choose from {listed}{more}"
