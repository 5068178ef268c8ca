"""Crops, random masks and keypoint counts of the epochs of a seed, shared by all arms.

They depend on the seed only. Each is computed once per process and its CPU seconds are charged to
every arm that uses it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from semattn.density import Scene, count
from semattn.keypoints import Keypoints, detect
from semattn.masking import Crop, RandomMasking
from semattn.pretraining import MaskedImages
from semattn.pretraining.data import EpochSampler

KEPT_BYTES = 2 << 30  # of crops that are kept for the next arm


@dataclass(frozen=True, eq=False)
class Epoch:
    """An epoch in the order of training.

    Parameters
    ----------
    indices : (n,) numbers of the pictures
    pixels : (n, H, W, 3) uint8 crops
    counts : (n, P) keypoints of each patch, or None
    seconds : CPU seconds of crops and counts
    """

    indices: list[int]
    pixels: np.ndarray
    counts: Tensor | None
    seconds: float


class SeedEpochs:
    """Crops and keypoint counts of the epochs of a seed.

    Parameters
    ----------
    pictures : training images
    size, patch_size : pixels
    seed : of crops and order
    """

    def __init__(self, pictures: Sequence[Any], size: int, patch_size: int, seed: int) -> None:
        self.data = MaskedImages(
            pictures, RandomMasking(seed=seed), size=size, patch_size=patch_size, seed=seed
        )
        self.order = EpochSampler(len(pictures), seed)
        self.keypoints: list[Keypoints] = []
        self.keypoint_seconds = 0.0
        self._crops: dict[int, tuple[list[int], list[Crop], np.ndarray, float]] = {}
        self._counts: dict[int, tuple[Tensor, float]] = {}

    def detect_keypoints(self) -> float:
        """Detect the keypoints of all pictures once; return the CPU seconds that it took."""
        if not self.keypoints:
            start = time.process_time()
            self.keypoints = [
                detect(np.asarray(self.data.picture(index))[None], workers=1, descriptors=False)[0]
                for index in range(len(self.data))
            ]
            self.keypoint_seconds = time.process_time() - start
        return self.keypoint_seconds

    def epoch(self, number: int, with_counts: bool = False) -> Epoch:
        """Return an epoch, counted from 0; `with_counts` needs `detect_keypoints`."""
        if number not in self._crops:
            self._make_room()
            self._crops[number] = self._crop(number)
        indices, crops, pixels, seconds = self._crops[number]
        if not with_counts:
            return Epoch(indices, pixels, None, seconds)
        if number not in self._counts:
            self._counts[number] = self._count(indices, crops, pixels)
        counts, count_seconds = self._counts[number]
        return Epoch(indices, pixels, counts, seconds + count_seconds)

    def _make_room(self) -> None:
        """Drop all epochs if another does not fit."""
        if sum(3 * entry[2].nbytes // 2 for entry in self._crops.values()) > KEPT_BYTES:
            self._crops.clear()
            self._counts.clear()

    def _crop(self, number: int) -> tuple[list[int], list[Crop], np.ndarray, float]:
        start = time.process_time()
        self.order.set_epoch(number)
        indices = [index for _, index in self.order]
        height, width = self.data.grid.image_size
        pixels = np.empty((len(indices), height, width, 3), np.uint8)
        crops = []
        for position, index in enumerate(indices):
            picture = self.data.picture(index)
            crops.append(self.data.crop(picture.size, number, index))
            pixels[position] = np.asarray(crops[-1].image(picture))
        return indices, crops, pixels, time.process_time() - start

    def _count(
        self, indices: list[int], crops: list[Crop], pixels: np.ndarray
    ) -> tuple[Tensor, float]:
        start = time.process_time()
        keypoints = [
            crop.keypoints(self.keypoints[index])
            for crop, index in zip(crops, indices, strict=True)
        ]
        counts = count(Scene(pixels, keypoints, self.data.grid)).float()
        return counts, time.process_time() - start
