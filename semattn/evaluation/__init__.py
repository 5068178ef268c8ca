"""Comparison of explanation methods on data sets: rows, columns, and statistics."""

from ..utils.statistics import Difference, Estimate, difference, estimate, holm
from . import peer_methods as _peer_methods
from .measures import Measure, Setting, measures
from .methods import DEFAULT, Map, method, peers
from .runner import Results, core, evaluate
from .table import BASELINES, Table, check_baselines, heading, markdown, page, table

assert _peer_methods  # imported to register methods

__all__ = [
    "BASELINES",
    "DEFAULT",
    "Difference",
    "Estimate",
    "Map",
    "Measure",
    "Results",
    "Setting",
    "Table",
    "check_baselines",
    "core",
    "difference",
    "estimate",
    "evaluate",
    "heading",
    "holm",
    "markdown",
    "measures",
    "method",
    "page",
    "peers",
    "table",
]
