"""Result of a search for spurious cues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.loading import Skipped
from .cue import SpuriousCue


@dataclass(frozen=True)
class Rank:
    """Class, its number of images, and the score of its best confirmed cue; 0 for none."""

    target: int
    name: str
    images: int
    score: float


@dataclass(frozen=True, eq=False)
class Discovery:
    """Cues of a search, the confirmed ones first, by decreasing score.

    Parameters
    ----------
    cues : all cues that were tried
    classes : searched classes, the most biased first
    images : number of images
    candidates : number of kinds of patches that were judged
    accuracy : of the model on the images; None without labels
    alpha : significance level, after correction
    skipped, notes : images that could not be read, and notes on the search
    manifest : model, weights, data, parameters, versions
    """

    cues: tuple[SpuriousCue, ...]
    classes: tuple[Rank, ...]
    images: int
    candidates: int
    accuracy: float | None
    alpha: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def confirmed(self) -> tuple[SpuriousCue, ...]:
        """Cues with a significant frequency, removal effect and transplant effect."""
        return tuple(cue for cue in self.cues if cue.confirmed)

    def summary(self) -> dict[str, Any]:
        """Return everything except pictures and detectors, ready for JSON."""
        return {
            "cues": [cue.summary() for cue in self.cues],
            "classes": [vars(rank) for rank in self.classes],
            "images": self.images, "candidates": self.candidates, "accuracy": self.accuracy,
            "alpha": self.alpha, "skipped": [image._asdict() for image in self.skipped],
            "notes": list(self.notes), "manifest": self.manifest,
        }  # fmt: skip
