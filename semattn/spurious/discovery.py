"""What a search found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .cue import SpuriousCue


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Rank:
    """A class, how many images it had, and the score of its best confirmed cue; 0 for none."""

    target: int
    name: str
    images: int
    score: float


@dataclass(frozen=True, eq=False)
class Discovery:
    """Cues, the confirmed ones first, by their score.

    Parameters
    ----------
    cues : what was tried
    classes : those searched, the most biased first
    images : how many were looked at
    candidates : how many kinds of patches were judged
    accuracy : of the model on them, where labels are known
    level : of significance, after correction
    skipped, notes : what a reader should know
    manifest : model, weights, data, parameters, versions
    """

    cues: tuple[SpuriousCue, ...]
    classes: tuple[Rank, ...]
    images: int
    candidates: int
    accuracy: float | None
    level: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def confirmed(self) -> tuple[SpuriousCue, ...]:
        """Cues that are more frequent in their class, and whose removal and transplant count."""
        return tuple(one for one in self.cues if one.confirmed)

    def summary(self) -> dict[str, Any]:
        """All of it but pictures and detectors, ready for JSON."""
        return {
            "cues": [one.summary() for one in self.cues],
            "classes": [vars(one) for one in self.classes],
            "images": self.images, "candidates": self.candidates, "accuracy": self.accuracy,
            "level": self.level, "skipped": [vars(one) for one in self.skipped],
            "notes": list(self.notes), "manifest": self.manifest,
        }  # fmt: skip
