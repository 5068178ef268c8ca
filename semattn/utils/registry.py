"""Registries of extensions by name: detectors, densities, explainers, models.

A registry is a dict with a decorator. The command line, the benchmarks and the contract tests read
it: an extension only has to register itself. This module knows nothing of what a registry holds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, cast


def unknown_name_message(kind: str, value: object, names: Iterable[str]) -> str:
    """Return the error message for an unknown name: the nearest known name, then all of them.

    Parts of names are compared too: "rolout" suggests "attention-rollout".
    """
    known_names = sorted(names)
    near = difflib.get_close_matches(str(value), known_names, n=1)
    if not near:
        parts = {part: name for name in reversed(known_names) for part in re.split("[-/]", name)}
        near = [parts[part] for part in difflib.get_close_matches(str(value), parts, 1, 0.75)]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{kind}: unknown name {value!r} — {hint}choose from {', '.join(known_names)}"


T = TypeVar("T")
Entry = TypeVar("Entry")


class Registry(dict[str, T], Generic[T]):
    """Dict from name to factory or function of type T.

    Examples
    --------
    >>> shapes: Registry[Callable[[int], int]] = Registry("shape")
    >>> @shapes.register("square")
    ... def square(side):
    ...     return side * side
    >>> shapes.resolve("square")(3)
    9
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Return a decorator that registers an object under `name`.

        Raises
        ------
        ValueError
            For a name that is registered already.
        """

        def enter(item: Entry) -> Entry:
            if name in self:
                raise ValueError(
                    f"{self.kind}: {name!r} is already registered — choose another name"
                )
            self[name] = cast("T", item)
            return item

        return enter

    def resolve(self, spec: str | T) -> T:
        """Return the object that is registered under a name; return a callable unchanged.

        Raises
        ------
        ValueError
            For an unknown name; the message lists the registered names.
        TypeError
            For a value that is neither a name nor a callable.
        """
        if isinstance(spec, str):
            if spec not in self:
                raise ValueError(unknown_name_message(self.kind, spec, self))
            return self[spec]
        if callable(spec):
            return spec
        raise TypeError(f"{self.kind}: expected a name or a callable, got {type(spec).__name__}")

    ensure = resolve  # the earlier name, which scripts use
