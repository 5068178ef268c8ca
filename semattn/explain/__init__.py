"""Explainers: from a model and a picture to a map of the picture."""

from .attention_rollout import AttentionRollout
from .base import Explainer, explainers
from .captum_methods import InputXGradient, IntegratedGradients, Occlusion, SmoothGrad
from .controls import Center, KeypointDensity, Random
from .generic_relevance import GenericRelevance
from .grad_cam import GradCAM
from .gradient_rollout import GradientRollout
from .legrad import LeGrad
from .raw_attention import RawAttention
from .result import Explanation
from .sift_patch_interrelation import SIFTPatchInterrelation
from .store import StoredMaps, load_maps, save_maps
from .transition_attention import TransitionAttention

__all__ = [
    "AttentionRollout",
    "Center",
    "Explainer",
    "Explanation",
    "GenericRelevance",
    "GradCAM",
    "GradientRollout",
    "InputXGradient",
    "IntegratedGradients",
    "KeypointDensity",
    "LeGrad",
    "Occlusion",
    "Random",
    "RawAttention",
    "SIFTPatchInterrelation",
    "SmoothGrad",
    "StoredMaps",
    "TransitionAttention",
    "explainers",
    "load_maps",
    "save_maps",
]
