"""The pictures of a run: some of its images, what the model saw, what it reconstructed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .. import viz
from ..masking import GuidedMasking
from ..utils.atomic_files import whole
from .data import MaskedImages
from .reconstruction import reconstruct, richness

PICTURE = "reconstruction.png"
TIMES = 10  # in a run, and at its end


def due(done: int, epochs: int) -> bool:
    """Whether a picture is drawn after so many epochs."""
    return done == epochs or done % max(1, epochs // TIMES) == 0


def draw(model: Any, data: MaskedImages, count: int, done: int, out: Path) -> None:
    """Write the picture after so many epochs: whole, or as it was."""
    made = reconstruct(model, data, spread(len(data), count), epoch=max(done - 1, 0))
    part = richness(made)
    beside = [
        describe(data, max(done - 1, 0)),
        "" if np.isnan(part) else f"{part:.0%} of the keypoints are in masked patches",
        "patches are predicted but for their true mean and contrast" * model.config.norm_pix_loss,
    ]
    name = f"Reconstruction after {done} epoch" + ("" if done == 1 else "s")
    drawn = viz.reconstruction(made, headline=name, beside="  ·  ".join(filter(None, beside)))
    with whole(out / PICTURE) as stream:
        drawn.savefig(stream, format="png")


def describe(data: MaskedImages, epoch: int) -> str:
    """The masking of an epoch in words."""
    masking = data.masking
    if not isinstance(masking, GuidedMasking):
        return type(masking).__name__.removesuffix("Masking").lower() + " masking"
    beta = masking.beta_at(epoch)
    hidden = "rich patches hidden more" if beta > 0 else "poor patches hidden more"
    return f"guided masking, beta {beta:g}" + (f": {hidden}" if beta else "")


def spread(count: int, wanted: int) -> list[int]:
    """Indices of so many pictures, evenly over all of them."""
    return sorted({int(one) for one in np.linspace(0, count - 1, min(wanted, count))})
