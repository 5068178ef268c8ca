"""Features of a batch of images: one forward pass, and keypoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention import AttentionRecord, record
from ..attention.model_call import move_to_model
from ..density import Scene, concentration, densities
from ..errors import ImageError, ShapeError
from ..grid import PatchGrid
from ..images import Images, Preprocessing, pixels_of, prepare
from ..keypoints import detect
from ..prompting.sources import prompt_sources
from .features import features

DENSITY = "interrelation"  # source of the class-independent objectness


@dataclass(frozen=True, eq=False)
class BatchFeatures:
    """Features of a batch.

    Parameters
    ----------
    logits : (B, K)
    features : (B, P, E), see `features`
    objectness : (B, P), class-independent: how much a patch belongs to the salient object
    keypoints : (B, P), number of keypoints
    grid : grid of the P patches
    """

    logits: Tensor
    features: Tensor
    objectness: Tensor
    keypoints: Tensor
    grid: PatchGrid


class Looker:
    """Feature extractor of one model; parameters as in `discover_spurious`."""

    def __init__(
        self, model: nn.Module, preprocessing: Preprocessing | None, detector: Any, seed: int
    ) -> None:
        self.model, self.detector, self.seed = model, detector, seed
        self.preprocessing = preprocessing
        self.preprocessing_source = preprocessing or (lambda: Preprocessing.of(model))
        self.depth = 0

    def read(self, sources: list[Any]) -> tuple[list[int], Images | None, list[tuple[int, str]]]:
        """Return the numbers of the pictures that can be read, the pictures, and the failures."""
        read_images: list[Images] = []
        read_numbers: list[int] = []
        skipped: list[tuple[int, str]] = []
        for number, source in enumerate(sources):
            try:
                image = prepare(source, self.preprocessing_source)
            except (ImageError, ShapeError, OSError) as error:
                skipped.append((number, " ".join(str(error).split())))
                continue
            if read_images and image.inputs.shape != read_images[0].inputs.shape:
                size = tuple(image.inputs.shape[-2:])
                skipped.append((number, f"expected images of one size, got {size}"))
                continue
            read_numbers.append(number)
            read_images.append(image)
        if not read_images:
            return [], None, skipped
        batch = Images(
            torch.cat([image.inputs for image in read_images]),
            np.concatenate([image.pixels for image in read_images]),
            tuple(image.names[0] for image in read_images),
            batched=True,
            prepared=all(image.prepared for image in read_images),
        )
        return read_numbers, batch, skipped

    def look(self, images: Images) -> BatchFeatures:
        """Return the features of images from one forward pass."""
        attention = self._record(images.inputs)
        keypoints = detect(images.pixels, self.detector, descriptors=True)
        scene = Scene(images.pixels, keypoints, attention.grid, self.seed)
        return BatchFeatures(
            attention.logits.float().cpu(),
            features(attention, images.pixels, keypoints),
            self._objectness(attention, scene),
            densities["count"](scene),
            attention.grid,
        )

    def features(self, inputs: Tensor) -> Tensor:
        """Return the features (B, P, E) of images (B, C, H, W) only."""
        pixels = pixels_of(inputs.detach(), self.preprocessing_source)
        keypoints = detect(pixels, self.detector, descriptors=True)
        return features(self._record(inputs), pixels, keypoints)

    def _record(self, inputs: Tensor) -> AttentionRecord:
        # Tensors of a data set count as prepared: their precision was not chosen by the caller.
        inputs = move_to_model(self.model, inputs, prepared=True)
        if not self.depth:
            self.depth = record(self.model, inputs[:1], grad=False, layers=[0]).depth
        layers = sorted({0, self.depth // 2})
        return record(self.model, inputs, grad=False, layers=layers)

    def _objectness(self, attention: AttentionRecord, scene: Scene) -> Tensor:
        """Return the objectness (B, P) of the patches."""
        source = prompt_sources[DENSITY]
        p = concentration(densities[source.density](scene))
        site = attention.middle_layer()
        objectness: Tensor = source.compute(site, attention.grid, p.to(site.device, site.dtype))
        return objectness.float().cpu()
