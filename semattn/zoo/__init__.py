"""Models: the embedded default, and every one that timm knows."""

from .build import DEFAULT, embedded, load, synsets
from .weights import WeightsError, cache_dir

__all__ = ["DEFAULT", "WeightsError", "cache_dir", "embedded", "load", "synsets"]
