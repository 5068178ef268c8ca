"""Keypoints and descriptors of many images as flat arrays, for matching between images.

`fine_sift` finds the small keypoints of marks; `LocalFeatures` holds RootSIFT descriptors
(Arandjelovic and Zisserman, CVPR 2012). Nothing here knows classes or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from .detectors import sift
from .keypoints import Keypoints
from .opencv import import_cv2

FINE_SIDE = 448  # pixels: images with a shorter longest side are enlarged, at most twice
MAX_ENLARGEMENT = 2.0
FINE_CONTRAST = 0.02  # contrast threshold of `sift`
MAX_KEYPOINTS = 400  # strongest keypoints of an image
SIFT_CELLS, SIFT_ORIENTATIONS = 4, 8  # layout of a descriptor: 4 x 4 cells of 8 orientations


def fine_sift(
    pixels: np.ndarray, *, descriptors: bool = True, max_keypoints: int = MAX_KEYPOINTS
) -> Keypoints:
    """Detect the strongest SIFT keypoints of an enlarged image, in pixels of the image itself.

    Letters of ten pixels have few keypoints at their own size and dozens at twice the size.

    Parameters
    ----------
    pixels : (H, W, 3) uint8
    descriptors : whether to compute descriptors
    max_keypoints : greatest number of keypoints, the strongest first
    """
    cv2 = import_cv2()
    factor = min(MAX_ENLARGEMENT, max(1.0, FINE_SIDE / max(pixels.shape[:2])))
    large = np.ascontiguousarray(pixels)
    if factor > 1:
        large = cv2.resize(large, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    keypoints = sift(large, contrast_threshold=FINE_CONTRAST, descriptors=descriptors)
    descriptor = keypoints.descriptor
    return Keypoints(
        xy=(keypoints.xy[:max_keypoints] + 0.5) / factor - 0.5,
        response=keypoints.response[:max_keypoints],
        size=keypoints.size[:max_keypoints] / factor,
        angle=keypoints.angle[:max_keypoints],
        descriptor=None if descriptor is None else descriptor[:max_keypoints],
        image_size=(pixels.shape[0], pixels.shape[1]),
        detector="sift-fine",
    )


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Keypoints of n images with descriptors of unit length, ordered by image.

    Parameters
    ----------
    xy : (M, 2) float32, pixels of the own image
    size : (M,) float32, pixels
    angle : (M,) float32, degrees
    descriptors : (M, D) float32, unit length
    image : (M,) int64, number of the image
    n_images : number of images, including those without keypoints
    is_sift : whether the descriptors are those of OpenCV's SIFT. Mirrored marks are searched only
        with these: the layout of others is not known
    """

    xy: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    descriptors: np.ndarray
    image: np.ndarray
    n_images: int
    is_sift: bool = True

    def __len__(self) -> int:
        return len(self.xy)

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each image, and the number of rows: (n + 1,)."""
        return np.searchsorted(self.image, np.arange(self.n_images + 1))

    def rows(self, rows: np.ndarray | slice) -> LocalFeatures:
        """Return the features of some rows."""
        return replace(
            self, xy=self.xy[rows], size=self.size[rows], angle=self.angle[rows],
            descriptors=self.descriptors[rows], image=self.image[rows],
        )  # fmt: skip

    def of_images(self, numbers: Sequence[int]) -> LocalFeatures:
        """Return the features of some images, by increasing number; numbers stay as they are."""
        starts = self.starts
        rows = [np.arange(starts[number], starts[number + 1]) for number in sorted(numbers)]
        return self.rows(np.concatenate(rows) if rows else slice(0))

    def without_descriptors(self) -> LocalFeatures:
        """Return the features with descriptors of length 0, which are quick to send."""
        return replace(self, descriptors=np.zeros((len(self), 0), np.float32))

    def mirrored_descriptors(self) -> np.ndarray | None:
        """Return the descriptors of the mirrored images (M, 128); None if they are not SIFT's.

        Mirroring reverses the rows of cells of a SIFT descriptor and the direction of orientations.

        Raises
        ------
        ValueError
            If `is_sift` and D is not 128.
        """
        if not self.is_sift:
            return None
        if self.descriptors.shape[1] != len(_MIRRORED):
            raise ValueError(
                f"descriptors: expected (M, 128) of OpenCV's SIFT, got {self.descriptors.shape} — "
                "give is_sift=False for the descriptors of another detector"
            )
        return np.ascontiguousarray(self.descriptors[:, _MIRRORED])


_MIRRORED = (
    np.arange(SIFT_CELLS**2 * SIFT_ORIENTATIONS)
    .reshape(SIFT_CELLS, SIFT_CELLS, SIFT_ORIENTATIONS)[::-1, :, -np.arange(SIFT_ORIENTATIONS)]
    .reshape(-1)
)


def local_features(keypoints: Sequence[Keypoints]) -> LocalFeatures:
    """Return the keypoints of several images, which have descriptors, as flat arrays."""
    counts = [len(of_image) for of_image in keypoints]
    columns = [
        [getattr(of_image, name).numpy() for of_image in keypoints]
        for name in ("xy", "size", "angle")
    ]
    xy, size, angle = (np.concatenate(parts).astype(np.float32) for parts in columns)
    descriptors = np.concatenate([unit_descriptors(of_image) for of_image in keypoints])
    image = np.repeat(np.arange(len(keypoints)), counts)
    is_sift = all(_is_sift(of_image) for of_image in keypoints if len(of_image))
    return LocalFeatures(xy, size, angle, descriptors, image, len(keypoints), is_sift)


def unit_descriptors(keypoints: Keypoints) -> np.ndarray:
    """Return descriptors (K, D) of unit length: RootSIFT for SIFT, else divided by their length."""
    values = _descriptors(keypoints).astype(np.float32)
    return root_sift(values) if _is_sift(keypoints) else _unit(values)


def _is_sift(keypoints: Keypoints) -> bool:
    return keypoints.detector.startswith("sift")


def _descriptors(keypoints: Keypoints) -> np.ndarray:
    if keypoints.descriptor is None:
        raise ValueError(
            f"keypoints: expected descriptors, got none from {keypoints.detector} — call detect("
            "pixels, detector, descriptors=True)"
        )
    values: np.ndarray = keypoints.descriptor.numpy()
    return values


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """Return the square root of descriptors (K, D) that are divided by their sum.

    The squared distance of two RootSIFT descriptors is 2 - 2 times their Hellinger kernel.

    Examples
    --------
    >>> root_sift(np.array([[1.0, 3.0]])).round(3).tolist()
    [[0.5, 0.866]]
    """
    total = np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12)
    root: np.ndarray = np.sqrt(descriptors / total)
    return root


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    unit: np.ndarray = values / length
    return unit


COLUMNS = ("xy", "response", "size", "angle", "descriptor")


def keypoints_to_arrays(keypoints: Sequence[Keypoints]) -> dict[str, np.ndarray]:
    """Return the keypoints of several images, at least one, as arrays to store.

    They are `COLUMNS`, "count" and "image_size" of each image, and the name of the detector.
    Descriptors of integers up to 255, as SIFT's, take one byte a number.
    """
    arrays = {
        name: np.concatenate([getattr(of_image, name).numpy() for of_image in keypoints])
        for name in COLUMNS[:-1]
    }
    arrays["descriptor"] = np.concatenate([_descriptors(of_image) for of_image in keypoints])
    small = arrays["descriptor"].clip(0, 255).astype(np.uint8)
    if (small == arrays["descriptor"]).all():
        arrays["descriptor"] = small
    return arrays | {
        "count": np.array([len(of_image) for of_image in keypoints], int),
        "image_size": np.array([of_image.image_size for of_image in keypoints], int),
        "detector": np.array(keypoints[0].detector),
    }


def keypoints_from_arrays(arrays: dict[str, np.ndarray]) -> list[Keypoints]:
    """Return the keypoints of each image from arrays of `keypoints_to_arrays`."""
    ends = np.cumsum(arrays["count"]).tolist()
    keypoints = []
    for start, end, size in zip([0, *ends], ends, arrays["image_size"].tolist(), strict=False):
        columns = {
            name: torch.from_numpy(arrays[name][start:end].astype(np.float32)) for name in COLUMNS
        }
        keypoints.append(
            Keypoints(**columns, image_size=tuple(size), detector=str(arrays["detector"]))
        )
    return keypoints
