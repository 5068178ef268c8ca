"""Prompting: add a bias to the attention scores of keypoint-dense patches, a region or a cue."""

from .bias import CLIP, attention_bias, suppression_bias
from .calibration import Calibration, Evaluation, TrialMetrics, calibrate, evaluate
from .prompter import AttentionPrompter
from .regions import Box, Mask, Points, Polygon, Region, coverage
from .sources import prompt_sources

__all__ = [
    "CLIP",
    "AttentionPrompter",
    "Box",
    "Calibration",
    "Evaluation",
    "Mask",
    "Points",
    "Polygon",
    "Region",
    "TrialMetrics",
    "attention_bias",
    "calibrate",
    "coverage",
    "evaluate",
    "prompt_sources",
    "suppression_bias",
]
