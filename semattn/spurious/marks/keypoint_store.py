"""Keypoints and descriptors of all images of a data set, without a model, kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ...errors import SemattnError
from ...images import read
from ...keypoints import Keypoints, detectors
from ...keypoints.local_features import keypoints_to_arrays
from ...utils.processes import own_cores
from ..batch_store import BATCH, BatchIndex, BatchStore

MAX_SIDE = 896  # pixels: larger pictures are reduced
FACTORS = "factors"  # size of each original, as a multiple of the picture that was searched


def read_pixels(source: Any) -> tuple[np.ndarray, float]:
    """Return a picture as (H, W, 3) uint8, its longer side at most `MAX_SIDE` pixels.

    The second value is the factor to the size of the original.
    """
    return reduced(np.asarray(read(source)))


def reduced(pixels: np.ndarray, max_side: int = MAX_SIDE) -> tuple[np.ndarray, float]:
    """Return pixels with a longer side of at most `max_side`, and the factor to the original."""
    height, width = pixels.shape[:2]
    factor = max(1.0, max(height, width) / max_side)
    if factor == 1:
        return pixels, 1.0
    size = (round(width / factor), round(height / factor))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    return np.asarray(small), factor


class KeypointStore(BatchStore):
    """Keypoints of the images of a data set; a label that is not known is -1.

    Parameters are those of `BatchStore`, and `detector`, a function of pixels.
    """

    prefix, stage = "keypoints-", "detecting keypoints"
    index_arrays = (*BATCH, FACTORS)

    def __init__(self, detector: Any, *args: Any) -> None:
        super().__init__(*args)
        self.detector = detectors.resolve(detector)

    @cached_property
    def index(self) -> BatchIndex:
        """Index of all images; missing batches are extracted."""
        return self._index_and_factors[0]

    @property
    def factors(self) -> np.ndarray:
        """Size of each original picture, as a multiple of the searched one: (n,)."""
        return self._index_and_factors[1]

    @cached_property
    def _index_and_factors(self) -> tuple[BatchIndex, np.ndarray]:
        index, batches = self.read_index()
        return index, np.concatenate([arrays[FACTORS] for arrays in batches if FACTORS in arrays])

    @property
    def _basis(self) -> str:
        return FACTORS  # a search that an earlier version began did not store them

    def pixels(self, row: int) -> np.ndarray:
        """Read the picture of a row again."""
        return read_pixels(self.data[int(self.index.sources[row])][0])[0]

    def _read(
        self, sources: list[Any]
    ) -> tuple[list[int], list[tuple[np.ndarray, float]], list[tuple[int, str]]]:
        positions, pictures, failures = [], [], []
        for position, source in enumerate(sources):
            try:
                pictures.append(read_pixels(source))
                positions.append(position)
            except (SemattnError, OSError, ValueError) as error:
                failures.append((position, str(error)))
        return positions, pictures, failures

    def _batch_arrays(
        self, images: Sequence[tuple[np.ndarray, float]], labels: list[int | None]
    ) -> dict[str, np.ndarray]:
        pixels, factors = zip(*images, strict=True)
        return {
            "labels": np.array([-1 if label is None else label for label in labels], int),
            FACTORS: np.array(factors, float),
            **keypoints_to_arrays(detect_each(pixels, self.detector)),
        }


def detect_each(images: Sequence[np.ndarray], detector: Any) -> list[Keypoints]:
    """Return the keypoints of images of any sizes, with descriptors."""
    with ThreadPoolExecutor(max(1, own_cores()), thread_name_prefix="semattn-keypoints") as pool:
        return list(pool.map(lambda pixels: detector(pixels, descriptors=True), images))
