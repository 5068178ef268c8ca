"""Keypoints of images, found by the SIFT of OpenCV or scikit-image.

Nothing here imports models, patches or attention.
"""

from .detectors import detect, detectors, ready, sift, sift_skimage, start
from .keypoints import Keypoints, no_keypoints

__all__ = [
    "Keypoints",
    "detect",
    "detectors",
    "no_keypoints",
    "ready",
    "sift",
    "sift_skimage",
    "start",
]
