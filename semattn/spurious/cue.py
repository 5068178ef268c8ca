"""Cue that a model uses for a class and that is not the object of the class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..grid import PatchGrid
from ..images import Preprocessing
from ..prompting import CLIP, suppression_bias
from .cue_detector import Detector
from .feature_extractor import Looker
from .interventions import Group
from .significance import Effect

SAME_PLACE, EVERYWHERE, AROUND = "same place", "all over the image", "around the object"


@dataclass(frozen=True, eq=False)
class Example:
    """Image with a cue: pixels (H, W, 3) uint8 and the match of each patch (h, w) with it.

    `grid` is the patch grid; None in files of earlier versions, whose patches cover the image
    evenly.

    `before` and `without` are the probability of the class with and without the patches of the cue;
    NaN if no removal was tried on this image.
    """

    name: str
    pixels: np.ndarray
    matches: np.ndarray
    before: float = float("nan")
    without: float = float("nan")
    grid: PatchGrid | None = None

    @property
    def patches(self) -> PatchGrid:
        """Patch grid of the image."""
        if self.grid is not None:
            return self.grid
        (h, w), (height, width) = self.matches.shape, self.pixels.shape[:2]
        return PatchGrid((h, w), (height, width), (height / h, width / w))


@dataclass(frozen=True, eq=False)
class SpuriousCue:
    """Patches that raise the score of a class and are not its object.

    Parameters
    ----------
    target, name : class number and class name
    score : [P(m|c) - P(m|not c)]+ times the mean effect of removal, in nats; `interval` is 95 %
    confirmed : True if frequency, removal and transplant are all significant
    p : greatest of the three corrected p-values
    inside, outside : P(m|c) and P(m|not c), fractions of the images that show the cue
    removed : decrease of the log-odds of the class when the cue is removed, in nats
    transplanted : increase of the log-odds in images of other classes with the cue, in nats
    where : "same place", "all over the image" or "around the object"
    fixed : mean overlap of the cue's patches between two images, in [0, 1]
    covers : fraction of an image that shows the cue
    keypoints : keypoints per patch of the cue, divided by those per patch of the whole image
    place : (h, w), fraction of the images with the cue that show it in each patch
    examples : images with the cue, best match first
    groups : accuracy of the model, unchanged and with attention to the cue suppressed
    detector : detector of the cue in patches of other images
    grid : patch grid of `place`; None if the patches cover the image evenly
    """

    target: int
    name: str
    score: float
    interval: tuple[float, float]
    confirmed: bool
    p: float
    inside: float
    outside: float
    removed: Effect
    transplanted: Effect
    where: str
    fixed: float
    covers: float
    keypoints: float
    place: np.ndarray
    examples: tuple[Example, ...]
    groups: tuple[Group, ...]
    detector: Detector
    model: nn.Module | None = field(default=None, repr=False)
    preprocessing: Preprocessing | None = field(default=None, repr=False)
    finder: Any = field(default="sift", repr=False)
    grid: PatchGrid | None = None

    @property
    def tag(self) -> str:
        """Density of the cue against the mean patch: "keypoint-rich" or "keypoint-poor"."""
        return "keypoint-rich" if self.keypoints >= 1 else "keypoint-poor"

    def matches(self, inputs: Tensor, model: nn.Module | None = None) -> Tensor:
        """Return how well each patch of images (B, C, H, W) matches the cue: (B, P) in [0, 1].

        The default model is that of the search; a cue that was read from a file needs `model`.

        Raises
        ------
        ValueError
            Without a model, or with a model whose patches have other features.
        """
        model = self.model if model is None else model
        if model is None:
            raise ValueError(
                "model: expected the model of the search, got none — call "
                "cue.matches(inputs, model) or load_discovery(file, model)"
            )
        features = Looker(model, self.preprocessing, self.finder, 0).features(inputs).numpy()
        if features.shape[-1] != len(self.detector.weights):
            raise ValueError(
                f"model: expected the model of the search with {len(self.detector.weights)} "
                f"features per patch, got {features.shape[-1]}"
            )
        return torch.from_numpy(self.detector(features)).float().to(inputs.device)

    def bias(self, inputs: Tensor) -> Tensor:
        """Return the bias (B, P), in nats, that suppresses the cue: ``prompter.steer(cue)``."""
        return suppression_bias(self.matches(inputs), CLIP)

    def summary(self) -> dict[str, Any]:
        """Return the values that a table shows, ready for JSON; unknown values are None."""
        return {
            "class": self.name, "target": self.target, "confirmed": self.confirmed,
            "score": _finite_or_none(self.score),
            "interval": [_finite_or_none(bound) for bound in self.interval],
            "p": self.p, "inside": self.inside, "outside": self.outside,
            "removed": _to_json(self.removed), "transplanted": _to_json(self.transplanted),
            "where": self.where, "fixed": _finite_or_none(self.fixed), "covers": self.covers,
            "tag": self.tag, "keypoints": self.keypoints, "place": self.place.tolist(),
            "groups": [_to_json(group) for group in self.groups],
            "examples": [
                {"name": example.name, "before": _finite_or_none(example.before),
                 "without": _finite_or_none(example.without)}
                for example in self.examples
            ],
        }  # fmt: skip


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _to_json(record: Effect | Group) -> dict[str, Any]:
    """Return the fields of a record, with None for values that are not finite."""
    return {
        name: _finite_or_none(value) if isinstance(value, float) else value
        for name, value in vars(record).items()
    }
