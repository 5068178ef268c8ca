"""What the search knows of a batch of images: one pass of the model, and the keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, record
from ..attention.model_inputs import move_to_model
from ..density import Scene, concentration, densities
from ..errors import ImageError, ShapeError
from ..grid import PatchGrid
from ..images import Images, Preprocessing, pixels_of, prepare
from ..keypoints import detect
from ..prompting.sources import prompts
from .features import features

DENSITY = "interrelation"  # where the thing is, whatever its class


@dataclass(frozen=True, eq=False)
class Look:
    """What is known of a batch.

    Parameters
    ----------
    logits : (B, K)
    features : (B, P, E), see `features`
    thing : (B, P), how much a patch belongs to what stands out in the image, for no class
    keypoints : (B, P), how many
    grid : the P patches
    """

    logits: Tensor
    features: Tensor
    thing: Tensor
    keypoints: Tensor
    grid: PatchGrid


class Looker:
    """Looks at images with one model; parameters as of `discover_spurious`."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing | None, detector: Any, seed: int
    ) -> None:
        self.model, self.detector, self.seed = model, detector, seed
        self.preprocessing = preprocessing
        self.wanted = preprocessing or (lambda: Preprocessing.of(model))
        self.depth = 0

    def read(self, sources: list[Any]) -> tuple[list[int], Images | None, list[tuple[int, str]]]:
        """The pictures that can be read, which they are, and why others cannot."""
        good: list[Images] = []
        kept: list[int] = []
        skipped: list[tuple[int, str]] = []
        for number, source in enumerate(sources):
            try:
                one = prepare(source, self.wanted)
            except (ImageError, ShapeError, OSError) as error:
                skipped.append((number, " ".join(str(error).split())))
                continue
            if good and one.inputs.shape != good[0].inputs.shape:
                size = tuple(one.inputs.shape[-2:])
                skipped.append((number, f"expected images of one size, got {size}"))
                continue
            kept.append(number)
            good.append(one)
        if not good:
            return [], None, skipped
        images = Images(
            torch.cat([one.inputs for one in good]),
            np.concatenate([one.pixels for one in good]),
            tuple(one.names[0] for one in good),
            batched=True,
            prepared=all(one.prepared for one in good),
        )
        return kept, images, skipped

    def look(self, images: Images) -> Look:
        """One pass."""
        taken = self._record(images.inputs)
        found = detect(images.pixels, self.detector, descriptors=True)
        scene = Scene(images.pixels, found, taken.grid, self.seed)
        return Look(
            taken.logits.float().cpu(),
            features(taken, images.pixels, found),
            self._thing(taken, scene),
            densities["count"](scene),
            taken.grid,
        )

    def features(self, inputs: Tensor) -> Tensor:
        """The features (B, P, E) of images (B, C, H, W) alone."""
        pixels = pixels_of(inputs.detach(), self.wanted)
        found = detect(pixels, self.detector, descriptors=True)
        return features(self._record(inputs), pixels, found)

    def _record(self, inputs: Tensor) -> AttentionRecord:
        # Tensors of a data set are prepared too: no caller has chosen their precision.
        inputs = move_to_model(self.model, inputs, prepared=True)
        if not self.depth:
            self.depth = record(self.model, inputs[:1], grad=False, layers=[0]).depth
        layers = sorted({0, self.depth // 2})
        return record(self.model, inputs, grad=False, layers=layers)

    def _thing(self, taken: AttentionRecord, scene: Scene) -> Tensor:
        source = prompts[DENSITY]
        p = concentration(densities[source.density](scene))
        one = taken.half_way()
        found: Tensor = source.see(one, taken.grid, p.to(one.device, one.dtype))
        return found.float().cpu()
