"""Attention engine: recording and steering of the attention calls of a model."""

from .attention_record import AttentionRecord, SiteRecord
from .propagation_rules import RuleSettings
from .record import record
from .sites import AttentionSite, choose_layers
from .steering import steer
from .target import Prediction, TargetLike

__all__ = [
    "AttentionRecord",
    "AttentionSite",
    "Prediction",
    "RuleSettings",
    "SiteRecord",
    "TargetLike",
    "choose_layers",
    "record",
    "steer",
]
