"""What a model uses for a class that is not the class's object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..grid import PatchGrid
from ..images import Preprocessing
from ..prompting import CLIP, suppress
from .detector import Detector
from .evidence import Effect
from .looking import Looker
from .trials import Group

SAME_PLACE, EVERYWHERE, AROUND = "same place", "all over the image", "around the object"


@dataclass(frozen=True, eq=False)
class Example:
    """An image with the cue: pixels (H, W, 3) uint8, how surely each patch (h, w) shows it.

    `grid` is where the patches lie; None in files of earlier versions, whose patches cover the
    image evenly.

    `before` and `without` are the probability of the class, with and without the patches of the
    cue; NaN where that was not tried.
    """

    name: str
    pixels: np.ndarray
    matches: np.ndarray
    before: float = float("nan")
    without: float = float("nan")
    grid: PatchGrid | None = None

    @property
    def patches(self) -> PatchGrid:
        """Grid of the patches."""
        if self.grid is not None:
            return self.grid
        (h, w), (height, width) = self.matches.shape, self.pixels.shape[:2]
        return PatchGrid((h, w), (height, width), (height / h, width / w))


@dataclass(frozen=True, eq=False)
class SpuriousCue:
    """Patches that speak for a class and are not its object.

    Parameters
    ----------
    target, name : the class, its number and what it is called
    score : [P(m|c) - P(m|not c)]+ times the mean effect of removing it, nats; `interval` 95 %
    confirmed : whether frequency, removal and transplant each hold at the level asked for
    p : the greatest of the three p-values, corrected for how many there were
    inside, outside : P(m|c) and P(m|not c), parts of the images that show it
    removed : what goes from the log-odds of the class with the cue, nats
    transplanted : what comes to them in images of other classes, nats
    where : "same place", "all over the image" or "around the object"
    fixed : how much the cue's patches are the same ones from image to image, in [0, 1]
    covers : the part of an image that shows it
    keypoints : keypoints a patch of it, over those of a patch of the whole image
    place : (h, w), the part of images with the cue that show it in a patch
    examples : images with it, the surest first
    groups : accuracy of the model, and when attention is led away from the cue
    detector : what finds it in the patches of other images
    grid : where the patches of `place` lie; None where they cover the image evenly
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
        """What its patches are against the mean patch: "keypoint-rich" or "keypoint-poor"."""
        return "keypoint-rich" if self.keypoints >= 1 else "keypoint-poor"

    def matches(self, inputs: Tensor, model: nn.Module | None = None) -> Tensor:
        """How surely each patch of images (B, C, H, W) shows the cue: (B, P) in [0, 1].

        The model is that of the search; a cue that was read from a file must be given it.

        Raises
        ------
        ValueError
            Without a model, or with one whose patches have other features.
        """
        model = self.model if model is None else model
        if model is None:
            raise ValueError(
                "model: expected the model that the cue was found in, got none — "
                "cue.matches(inputs, model), or load(file, model)"
            )
        found = Looker(model, self.preprocessing, self.finder, 0).features(inputs).numpy()
        if found.shape[-1] != len(self.detector.weights):
            raise ValueError(
                f"model: expected the one that the cue was found in, with "
                f"{len(self.detector.weights)} features a patch, got {found.shape[-1]}"
            )
        return torch.from_numpy(self.detector(found)).float().to(inputs.device)

    def bias(self, inputs: Tensor) -> Tensor:
        """Nats (B, P) that lead attention away from the cue: ``prompter.steer(cue)``."""
        return suppress(self.matches(inputs), CLIP)

    def summary(self) -> dict[str, Any]:
        """What a table shows of it, ready for JSON; figures that are unknown are None."""
        return {
            "class": self.name, "target": self.target, "confirmed": self.confirmed,
            "score": _known(self.score), "interval": [_known(one) for one in self.interval],
            "p": self.p, "inside": self.inside, "outside": self.outside,
            "removed": _plain(self.removed), "transplanted": _plain(self.transplanted),
            "where": self.where, "fixed": _known(self.fixed), "covers": self.covers,
            "tag": self.tag, "keypoints": self.keypoints, "place": self.place.tolist(),
            "groups": [_plain(one) for one in self.groups],
            "examples": [
                {"name": one.name, "before": _known(one.before), "without": _known(one.without)}
                for one in self.examples
            ],
        }  # fmt: skip


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(one: Effect | Group) -> dict[str, Any]:
    return {
        name: _known(value) if isinstance(value, float) else value
        for name, value in vars(one).items()
    }
