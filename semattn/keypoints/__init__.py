"""Keypoints of images, found by the SIFT of OpenCV, of scikit-image, or on the GPU.

Nothing here imports models, patches or attention.
"""

from .detectors import (
    DetectorLike,
    completed,
    detect,
    detect_async,
    detectors,
    sift,
    sift_skimage,
)
from .keypoints import Keypoints, no_keypoints
from .sift_torch import sift_torch

__all__ = [
    "DetectorLike",
    "Keypoints",
    "completed",
    "detect",
    "detect_async",
    "detectors",
    "no_keypoints",
    "sift",
    "sift_skimage",
    "sift_torch",
]
