"""Models: the embedded default model, and all models of timm.

Names are imported at first use: the table of known models needs neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import DEFAULT, embedded_models, load, synsets
    from .weights import WeightsError, cache_dir, install_weights

__all__ = [
    "DEFAULT", "WeightsError", "cache_dir", "embedded_models", "install_weights", "load", "synsets",
]  # fmt: skip

_MODULES = dict.fromkeys(("WeightsError", "cache_dir", "install_weights"), "weights")  # else build

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> Any:
        """Import `name` from the module that defines it (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES.get(name, 'build')}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """Return all public names, imported or not, for help() and the documentation."""
        return sorted(globals().keys() | set(__all__))
