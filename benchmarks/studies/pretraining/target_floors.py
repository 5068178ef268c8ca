"""Probes of dense descriptors without a model, the floors of the comparison of targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from semattn.masking import descriptor_targets

from .pretraining_data import Data
from .probes import run_probes
from .target_arms import WINDOW
from .target_training import unit_images

BATCH = 256


def descriptor_floors(data: Data, patch_size: int) -> dict[str, dict[str, Any]]:
    """Return both probes of SIFT and HOG in two forms.

    "mean" averages the descriptors of all patches, as the features of the encoder average its
    tokens. "grid" joins the descriptors of all windows that do not overlap, as raw pixels are
    joined: positions are kept.
    """
    floors = {}
    for name, step in (("sift", max(1, round(WINDOW / patch_size))), ("hog", 1)):
        for form in ("mean", "grid"):
            train, test = (
                _features(labelled.pixels, name, patch_size, step, form)
                for labelled in (data.train, data.test)
            )
            floors[f"{name.upper()} of the image, {form}"] = run_probes(train, test, data)
    return floors


def _features(pixels: np.ndarray, name: str, patch_size: int, step: int, form: str) -> np.ndarray:
    """Return the descriptors (n, D) of images; "grid" has those of patches of `step` patches."""
    parts = []
    for start in range(0, len(pixels), BATCH):
        images = unit_images(pixels[start : start + BATCH])
        cell = patch_size if form == "mean" else patch_size * step
        vectors = descriptor_targets(images, name, patch_size=cell, window=WINDOW)
        parts.append((vectors.mean(1) if form == "mean" else vectors.flatten(1)).numpy())
    return np.concatenate(parts)
