"""Models: the embedded default model, and models of other libraries by a specification.

Names are imported at first use: the table of known models needs neither torch nor timm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy_names import lazy_names

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

_MODULES = {
    "DEFAULT": "specifications",
    "LoadedModel": "specifications",
    "ModelRequest": "specifications",
    "WeightsError": "weights",
    "cache_dir": "weights",
    "embedded_models": "build",
    "install_weights": "weights",
    "load": "specifications",
    "sources": "specifications",
    "synsets": "build",
}

if not TYPE_CHECKING:  # a type checker would accept every name
    __getattr__, __dir__ = lazy_names(__name__, _MODULES)
