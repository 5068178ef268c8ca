"""Comparison of methods on data sets: which rows, which columns, and what is left of chance."""

from ..statistics import Difference, Estimate, difference, estimate, holm
from . import archives as _archives, lrp as _lrp, peers as _peers
from .measures import Measure, Setting, measures
from .methods import DEFAULT, Map, method, peers
from .run import Results, core, evaluate
from .table import BASELINES, Table, check_baselines, heading, markdown, page, table

assert _archives and _lrp and _peers  # entered as data and as rows

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
