"""Weighted patch interrelation: what attention does between patches of different concentration.

`analyze` runs a model on one image or on many and gives an `Analysis`: lift tables between the
strata EMPTY, LOW and HIGH, alignment with the keypoints' concentration, attention distance and
entropy, for each layer and head, with intervals and nulls. Knows nothing of pictures and reports.
"""

from .analysis import Analysis, load_analysis
from .figures import Skipped
from .run import analyze

__all__ = ["Analysis", "Skipped", "analyze", "load_analysis"]
