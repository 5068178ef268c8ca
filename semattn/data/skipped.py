"""Inputs that could not be read and were skipped."""

from __future__ import annotations

from typing import NamedTuple


class Skipped(NamedTuple):
    """Name of an image that was skipped, and the reason in one line."""

    name: str
    reason: str
