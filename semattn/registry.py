"""Names for the things that can be added: detectors, densities, explainers, models.

A registry is a dict with a decorator. It knows nothing of what it holds; the command line, the
benchmarks and the contract tests read it, so that registering is all that an extension does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any


def choices(kind: str, given: object, names: Iterable[str]) -> str:
    """The one line that answers an unknown name: the nearest one, then all of them.

    A part of a name is enough to be near it: "rolout" is answered with "attention-rollout".
    """
    known = sorted(names)
    near = difflib.get_close_matches(str(given), known, n=1)
    if not near:
        parts = {part: name for name in reversed(known) for part in re.split("[-/]", name)}
        near = [parts[one] for one in difflib.get_close_matches(str(given), parts, 1, 0.75)]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{kind}: unknown name {given!r} — {hint}choose from {', '.join(known)}"


class Registry(dict[str, Any]):
    """A dict from name to factory or function.

    Examples
    --------
    >>> shapes = Registry("shape")
    >>> @shapes.register("square")
    ... def square(side):
    ...     return side * side
    >>> shapes.ensure("square")(3)
    9
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def register(self, name: str) -> Callable[[Any], Any]:
        """Enter the decorated object under `name`; a name is taken once."""

        def enter(item: Any) -> Any:
            if name in self:
                raise ValueError(f"{self.kind}: {name!r} is registered already — choose another")
            self[name] = item
            return item

        return enter

    def ensure(self, spec: Any) -> Any:
        """A name becomes what it stands for; a callable is taken as it is.

        Raises
        ------
        ValueError
            For a name that nobody registered; the message lists those that exist.
        TypeError
            For anything that is neither a name nor a callable.
        """
        if isinstance(spec, str):
            if spec not in self:
                raise ValueError(choices(self.kind, spec, self))
            return self[spec]
        if callable(spec):
            return spec
        raise TypeError(f"{self.kind}: expected a name or a callable, got {type(spec).__name__}")
