"""Attention engine: recording and steering of the attention calls of a model."""

from .attention_record import AttentionRecord, SiteRecord
from .record import record
from .rule_registry import RuleSettings
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
