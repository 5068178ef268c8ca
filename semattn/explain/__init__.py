"""Explainers: methods that compute a heat map of an image for a model."""

from .attention_rollout import AttentionRollout
from .base import Explainer, explainers
from .baselines import Center, KeypointDensity, Random
from .captum_methods import InputXGradient, IntegratedGradients, Occlusion, SmoothGrad
from .explanation import Explanation
from .generic_relevance import GenericRelevance
from .grad_cam import GradCAM
from .gradient_rollout import GradientRollout
from .legrad import LeGrad
from .map_files import StoredMaps, load_maps, save_maps
from .raw_attention import RawAttention
from .sift_patch_interrelation import SIFTPatchInterrelation
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
