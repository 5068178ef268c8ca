"""Discovery of spurious correlations: what a model uses for a class that is not its object."""

from ..data.loading import Skipped
from .cue import CueImage, Example, SpuriousCue
from .discovery import Discovery, Rank, load_discovery, save_discovery
from .interventions import Group
from .marks.cue import MarkCue
from .marks.files import load_marks, save_marks
from .marks.mark import Mark, MarkExample, erase_marks
from .marks.search import MarkDiscovery, find_marks
from .marks.template import Region
from .search import Search, discover_spurious
from .significance import Effect

__all__ = [
    "CueImage",
    "Discovery",
    "Effect",
    "Example",
    "Group",
    "Mark",
    "MarkCue",
    "MarkDiscovery",
    "MarkExample",
    "Rank",
    "Region",
    "Search",
    "Skipped",
    "SpuriousCue",
    "discover_spurious",
    "erase_marks",
    "find_marks",
    "load_discovery",
    "load_marks",
    "save_discovery",
    "save_marks",
]
