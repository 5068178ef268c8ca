"""Prompting: attention led to keypoint-dense patches, to a region, or away from a cue."""

from .bias import CLIP, attend, suppress
from .prompter import AttentionPrompter
from .regions import Box, Mask, Points, Polygon, Region, coverage
from .sources import prompts

__all__ = [
    "CLIP",
    "AttentionPrompter",
    "Box",
    "Mask",
    "Points",
    "Polygon",
    "Region",
    "attend",
    "coverage",
    "prompts",
    "suppress",
]
