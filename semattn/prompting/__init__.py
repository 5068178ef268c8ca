"""Prompting: add a bias to the attention scores of keypoint-dense patches, a region or a cue."""

from .bias import CLIP, attend, suppress
from .calibration import Calibration, Evaluation, Step, calibrate, evaluate
from .prompter import AttentionPrompter
from .regions import Box, Mask, Points, Polygon, Region, coverage
from .sources import prompts

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
    "Step",
    "attend",
    "calibrate",
    "coverage",
    "evaluate",
    "prompts",
    "suppress",
]
