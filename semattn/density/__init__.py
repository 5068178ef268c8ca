"""Semantic concentration: from keypoints and a grid to one weight a patch.

A density is a function from a `Scene` to s (B, P), by name in `densities`; `concentration` makes
of it weights p that sum to 1, and `strata` sorts the patches into EMPTY, LOW and HIGH. The controls
that any claim about keypoints must beat (edges, centre, shifted, shuffled) stand in the same
registry, marked as such. Nothing here knows of models or attention.
"""

from .baselines import canny, center, other, permuted, random, shifted, sobel, uniform
from .clean import clean_density
from .concentration import EMPTY, HIGH, LOW, concentration, strata
from .keypoint_densities import (
    count,
    distinct,
    distinct_size,
    distinct_size_surround,
    gaussian,
    response,
    size,
    surround,
)
from .scene import Scene, densities, register_density

__all__ = [
    "EMPTY",
    "HIGH",
    "LOW",
    "Scene",
    "canny",
    "center",
    "clean_density",
    "concentration",
    "count",
    "densities",
    "distinct",
    "distinct_size",
    "distinct_size_surround",
    "gaussian",
    "other",
    "permuted",
    "random",
    "register_density",
    "response",
    "shifted",
    "size",
    "sobel",
    "strata",
    "surround",
    "uniform",
]
