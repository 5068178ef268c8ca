"""Pictures of a run: example images, their visible patches and their reconstructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import viz
from ..masking import GuidedMasking
from ..utils.atomic_files import atomic_write
from .data import MaskedImages
from .reconstruction import masked_keypoint_fraction, reconstruct

PICTURE = "reconstruction.png"
PICTURES_PER_RUN = 10


def is_due(epochs_done: int, epochs: int) -> bool:
    """Return True if a picture is drawn after this number of epochs."""
    return epochs_done == epochs or epochs_done % max(1, epochs // PICTURES_PER_RUN) == 0


def draw(model: Any, data: MaskedImages, count: int, epochs_done: int, out_dir: Path) -> None:
    """Draw the reconstruction picture after a number of epochs and write it atomically."""
    result = reconstruct(
        model, data, spread_indices(len(data), count), epoch=max(epochs_done - 1, 0)
    )
    fraction = masked_keypoint_fraction(result)
    captions = [
        describe(data, max(epochs_done - 1, 0)),
        "" if np.isnan(fraction) else f"{fraction:.0%} of the keypoints are in masked patches",
        "predicted patches are shown with their true mean and contrast"
        * model.config.norm_pix_loss,
    ]
    headline = f"Reconstruction after {epochs_done} epoch" + ("" if epochs_done == 1 else "s")
    figure = viz.reconstruction(
        result, headline=headline, subtitle="  ·  ".join(filter(None, captions))
    )
    with atomic_write(out_dir / PICTURE) as stream:
        figure.savefig(stream, format="png")


def describe(data: MaskedImages, epoch: int) -> str:
    """Return a description of the masking of an epoch."""
    masking = data.masking
    if not isinstance(masking, GuidedMasking):
        return type(masking).__name__.removesuffix("Masking").lower() + " masking"
    beta = masking.beta_at(epoch)
    hidden = (
        "dense patches are masked more often"
        if beta > 0
        else "sparse patches are masked more often"
    )
    return f"guided masking, beta {beta:g}" + (f": {hidden}" if beta else "")


def spread_indices(count: int, limit: int) -> list[int]:
    """Return at most `limit` indices, evenly spaced over `count` pictures."""
    return sorted({int(index) for index in np.linspace(0, count - 1, min(limit, count))})
