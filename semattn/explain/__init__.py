"""Explainers: methods that compute a heat map of an image for a model."""

from .base import Explainer, explainers
from .baselines import Center, KeypointDensity, Random
from .captum_methods import InputXGradient, IntegratedGradients, Occlusion, SmoothGrad
from .explanation import Explanation, StoredMaps, load_maps, save_maps
from .grad_cam import GradCAM
from .legrad import LeGrad
from .relevance_propagation import AttnLRP
from .rollout import AttentionRollout, GenericRelevance, GradientRollout, RawAttention
from .sift_patch_interrelation import SIFTPatchInterrelation
from .transition_attention import TransitionAttention

__all__ = [
    "AttentionRollout",
    "AttnLRP",
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
