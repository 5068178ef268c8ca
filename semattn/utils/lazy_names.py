"""Names of a package that are imported at first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, str], subpackages: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a package.

    Parameters
    ----------
    package : name of the package
    modules : from each public name to the module in the package that defines it
    subpackages : names of modules in the package that are imported at first use as well

    Examples
    --------
    >>> get_name, _ = lazy_names("semattn", {"PatchGrid": "grid"})
    >>> get_name("PatchGrid").__name__
    'PatchGrid'
    """
    parts = frozenset(subpackages)

    def get_name(name: str) -> Any:
        if name in parts:
            return import_module(f".{name}", package)
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{modules[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        """Return all names, imported or not, for help() and the documentation."""
        return sorted(vars(sys.modules[package]).keys() | modules.keys())

    return get_name, list_names
