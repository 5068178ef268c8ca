"""Explainers: from a model and a picture to a map of the picture."""

from .base import Explainer, explainers
from .result import Explanation
from .sift_patch_interrelation import SIFTPatchInterrelation

__all__ = ["Explainer", "Explanation", "SIFTPatchInterrelation", "explainers"]
