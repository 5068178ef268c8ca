"""Weighted patch interrelation: attention between patches of different keypoint concentration.

`analyze` runs a model on one or more images and returns an `Analysis`: lift tables between the
strata EMPTY, LOW and HIGH, alignment with the keypoint concentration, attention distance and
entropy, for each layer and head, with intervals and nulls. This package must not import `viz` or
`report`.
"""

from ..data.loading import Skipped
from .analysis import Analysis, load_analysis
from .analysis_runner import analyze

__all__ = ["Analysis", "Skipped", "analyze", "load_analysis"]
