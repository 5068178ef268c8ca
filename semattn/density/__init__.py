"""Semantic concentration: one weight per patch, computed from keypoints and a grid.

A density is a function from a `Scene` to s (B, P), registered by name in `densities`.
`concentration` normalises s to weights p that sum to 1, and `strata` assigns the patches to EMPTY,
LOW and HIGH. The registry also contains the baselines (edges, center, shifted, shuffled), marked as
controls. This package must not import models or attention.
"""

from .baselines import canny, center, other, permuted, random, shifted, sobel, uniform
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
from .scene import (
    EMPTY,
    HIGH,
    LOW,
    DensityLike,
    Scene,
    clean_density,
    concentration,
    concentration_of,
    densities,
    density_needs,
    register_density,
    strata,
)

__all__ = [
    "EMPTY",
    "HIGH",
    "LOW",
    "DensityLike",
    "Scene",
    "canny",
    "center",
    "clean_density",
    "concentration",
    "concentration_of",
    "count",
    "densities",
    "density_needs",
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
