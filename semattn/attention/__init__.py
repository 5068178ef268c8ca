"""Attention engine: recording and steering of the attention calls of a model."""

from .record import AttentionRecord, record
from .site_record import SiteRecord
from .sites import AttentionSite, choose_layers
from .steering import steer

__all__ = [
    "AttentionRecord",
    "AttentionSite",
    "SiteRecord",
    "choose_layers",
    "record",
    "steer",
]
