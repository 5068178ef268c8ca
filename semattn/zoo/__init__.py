"""Models: the embedded default, and every one that timm knows.

Names are imported when they are first asked for: the table of known models needs neither torch nor
timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import DEFAULT, embedded, load, synsets
    from .weights import WeightsError, cache_dir

__all__ = ["DEFAULT", "WeightsError", "cache_dir", "embedded", "load", "synsets"]

_MODULES = {"WeightsError": "weights", "cache_dir": "weights"}  # else build

if not TYPE_CHECKING:  # else every name would be known, misspelled ones too

    def __getattr__(name: str) -> Any:
        """Import `name` from the module that defines it (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES.get(name, 'build')}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Every public name, imported or not (help and the site list them)."""
        return sorted(globals().keys() | set(__all__))
