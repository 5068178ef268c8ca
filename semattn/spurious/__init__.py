"""Discovery of spurious correlations: what a model uses for a class that is not its object."""

from .cue import Example, SpuriousCue
from .discovery import Discovery, Rank, Skipped
from .evidence import Effect
from .search import Search, discover_spurious
from .store import load_discovery, save_discovery
from .trials import Group

__all__ = [
    "Discovery",
    "Effect",
    "Example",
    "Group",
    "Rank",
    "Search",
    "Skipped",
    "SpuriousCue",
    "discover_spurious",
    "load_discovery",
    "save_discovery",
]
