"""Models: the embedded default model, and models of other libraries by a specification.

Names are imported at first use: the table of known models needs neither torch nor timm.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import embedded_models, synsets
    from .specifications import DEFAULT, LoadedModel, ModelRequest, load, sources
    from .weights import WeightsError, cache_dir, install_weights

__all__ = [
    "DEFAULT",
    "LoadedModel",
    "ModelRequest",
    "WeightsError",
    "cache_dir",
    "embedded_models",
    "install_weights",
    "load",
    "sources",
    "synsets",
]

_MODULES = {  # of the names that build does not define
    "WeightsError": "weights",
    "cache_dir": "weights",
    "install_weights": "weights",
    "DEFAULT": "specifications",
    "LoadedModel": "specifications",
    "ModelRequest": "specifications",
    "load": "specifications",
    "sources": "specifications",
}

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
