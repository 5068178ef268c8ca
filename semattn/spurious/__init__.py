"""Discovery of spurious correlations: what a model uses for a class that is not its object."""

from ..data.loading import Skipped
from .cue import Example, SpuriousCue
from .discovery import Discovery, Rank, load_discovery, save_discovery
from .interventions import Group
from .search import Search, discover_spurious
from .significance import Effect

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
