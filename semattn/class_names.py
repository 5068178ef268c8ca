"""Class names: where a model has them, and which class a name or a number stands for.

Every command and function that takes a class by name asks `resolve_class`.
This module imports no model code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import SemattnError, TargetError, plain

LISTED = 12  # names that an error lists
_NUMBER = re.compile(r"[0-9]{1,18}")
_PLACEHOLDER = "LABEL_"  # the names that transformers gives where there are none


def class_names(model: Any) -> tuple[str, ...] | None:
    """The class names of a model: its `classes`, or `id2label` of its config; None without any."""
    names = getattr(model, "classes", None)
    known = getattr(getattr(model, "config", None), "id2label", None)
    if names is None and isinstance(known, Mapping) and known.keys() == set(range(len(known))):
        names = [known[number] for number in range(len(known))]
        if names == [f"{_PLACEHOLDER}{number}" for number in range(len(known))]:
            return None
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def check_names(names: Sequence[str] | None, outputs: int, *, binary: bool = False) -> None:
    """Raise SemattnError unless there is a name for each output.

    Parameters
    ----------
    names : the class names; None and () pass
    outputs : of the model
    binary : whether one output stands for two answers; then one or two names pass

    Examples
    --------
    >>> check_names(["cat", "dog"], 3)
    Traceback (most recent call last):
    semattn.errors.SemattnError: class names: expected 3, one for each output of the model, got 2 \
— give a list of 3 names, or none
    """
    if names and len(names) != outputs and not (binary and len(names) in (1, 2)):
        raise SemattnError(
            f"class names: expected {outputs}, one for each output of the model, got {len(names)} "
            f"— give a list of {outputs} names, or none"
        )


def resolve_class(given: int | str, names: Sequence[str] | None, outputs: int | None = None) -> int:
    """The number of the class that a name or a number stands for.

    A name is a class's whole name, or one of the synonyms between its commas, in any case; it must
    belong to one class alone. Digits are a number, unless they are also the name of another class.
    ``#3`` is always the number 3.

    Parameters
    ----------
    given : a class number, or what a person typed
    names : the class names; None or () where the model has none
    outputs : the number of classes; None is the number of names, if there are any

    Raises
    ------
    TargetError
        For an unknown or ambiguous name, and a number out of range; the message lists candidates.

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
    if not isinstance(given, str):
        return _in_range(int(given), outputs)
    text = given.strip()
    if text.startswith("#") and _NUMBER.fullmatch(text[1:]):
        return _in_range(int(text[1:]), outputs)
    named = matches(text, names)
    if _NUMBER.fullmatch(text):
        number = int(text)
        if not named:
            return _in_range(number, outputs)
        if outputs is None or number < outputs:
            named = sorted({*named, number})
    if len(named) == 1:
        return named[0]
    if named:
        candidates = " or ".join(f"#{one} {names[one]!r}" for one in named[:LISTED])
        raise TargetError(
            f"target: expected one class, got {given!r}, which may be {candidates} — give the "
            f"number, such as #{named[0]}"
        )
    raise TargetError(_unknown(given, names))


def matches(text: str, names: Sequence[str]) -> list[int]:
    """The classes with that whole name; if there are none, those with that synonym."""
    wanted = normalized(text)
    if not wanted:
        return []
    whole = [number for number, name in enumerate(names) if normalized(name) == wanted]
    return whole or [number for number, name in enumerate(names) if wanted in synonyms(name)]


def synonyms(name: str) -> set[str]:
    """The normalized synonyms in a class name, which commas or "or" separate."""
    return {normalized(part) for part in re.split(r",| or ", name)} - {""}


def normalized(name: str) -> str:
    """A name without case; underscores and repeated spaces are one space."""
    return " ".join(name.casefold().replace("_", " ").split())


def _in_range(number: int, outputs: int | None) -> int:
    if number < 0 or (outputs is not None and number >= outputs):
        most = "" if outputs is None else f" to {outputs - 1}"
        raise TargetError(f"target: expected a class number from 0{most}, got {number}")
    return number


def _unknown(given: str, names: tuple[str, ...]) -> str:
    if not names:
        return (
            f"target: expected a class number, got {given!r} — the model names no classes; "
            "give them with --classes FILE"
        )
    known: dict[str, str] = {}
    for name in names:
        for part in (normalized(name), *sorted(synonyms(name))):
            known.setdefault(part, name)
    near = difflib.get_close_matches(normalized(given), known, n=1, cutoff=0.5)
    hint = f"did you mean {known[near[0]]!r}? " if near else ""
    some = ", ".join(plain(name) for name in names[:LISTED])
    more = ", …" if len(names) > LISTED else ""
    return f"target: unknown class {given!r} — {hint}choose from {some}{more}"
