"""Template of a recurring mark, and its location in images by matching and geometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...keypoints import Keypoints
from ...keypoints.local_features import LocalFeatures, local_features
from ...keypoints.matching import Link, apply, compose, match_features
from ...keypoints.regions import is_inside, shared_part
from ...utils.notebook import ShortRepr

MIN_LOCATED = 5  # matches of a template with an image
MAX_SHARED = 0.5  # part of the smaller of two regions that they share if they are not one
MAX_INSIDE = 0.5  # part of the matched keypoints of a place that a stronger place contains
MIN_COVERED = 0.15  # part of the template's outline that the matched keypoints span
TEMPLATE_ARRAYS = ("xy", "size", "angle", "descriptors", "background", "outline")


@dataclass(frozen=True, eq=False, repr=False)
class Region(ShortRepr):
    """Place of a mark in one image.

    Parameters
    ----------
    outline : (V, 2), convex polygon, pixels
    transform : (2, 3), from the frame of the template to the image
    matches : number of matched keypoints
    is_mirrored : whether the mark is mirrored
    """

    outline: np.ndarray
    transform: np.ndarray
    matches: int
    is_mirrored: bool

    def overlaps(self, other: Region) -> bool:
        """Return whether two regions share half of the smaller one."""
        return shared_part(self.outline, other.outline) > MAX_SHARED


@dataclass(frozen=True, eq=False)
class MarkTemplate:
    """Keypoints of a mark in a frame of its own, from several images.

    Parameters
    ----------
    features : T keypoints with descriptors, positions in the frame
    background : (T,), squared distance of each descriptor to images without the mark
    outline : (V, 2), convex outline of the mark in the frame
    """

    features: LocalFeatures
    background: np.ndarray
    outline: np.ndarray

    def locate(self, keypoints: Keypoints) -> list[Region]:
        """Return the places of the mark in an image, the one with the most matches first.

        Parameters
        ----------
        keypoints : of the image, with descriptors, from the detector of the search
        """
        return self.locate_features(local_features([keypoints])).get(0, [])

    def locate_features(self, images: LocalFeatures) -> dict[int, list[Region]]:
        """Return the places of the mark by number of image; images without it are absent."""
        links = match_features(self.features, self.background, images)
        regions: dict[int, list[Region]] = {}
        for link in sorted(filter(self._is_whole, links), key=lambda link: -len(link.first)):
            stronger = regions.setdefault(int(images.image[link.second[0]]), [])
            region = self.region(link.transform, len(link.first), link.is_mirrored)
            # Parts of a mark that look like others, or like their mirror image, match again.
            if not any(
                region.overlaps(other)
                or is_inside(images.xy[link.second], other.outline).mean() > MAX_INSIDE
                for other in stronger
            ):
                stronger.append(region)
        return dict(sorted(regions.items()))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the template as the arrays `TEMPLATE_ARRAYS`."""
        features = self.features
        return dict(zip(TEMPLATE_ARRAYS, (
            features.xy, features.size, features.angle, features.descriptors, self.background,
            self.outline,
        ), strict=True))  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> MarkTemplate:
        """Return the template of such arrays."""
        xy, size, angle, descriptors, background, outline = (
            arrays[name] for name in TEMPLATE_ARRAYS
        )
        features = LocalFeatures(xy, size, angle, descriptors, np.zeros(len(xy), int), 1)
        return cls(features, background, outline)

    def regions_from_arrays(self, arrays: dict[str, np.ndarray]) -> list[Region]:
        """Return the places of the mark of arrays of `regions_to_arrays`."""
        columns = (arrays["transforms"], arrays["matches"].tolist(), arrays["is_mirrored"].tolist())
        return [self.region(*values) for values in zip(*columns, strict=True)]

    def scaled(self, region: Region, factor: float) -> Region:
        """Return a place of the mark in an image that is `factor` times as large."""
        scale = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2]])
        return self.region(compose(scale, region.transform), region.matches, region.is_mirrored)

    def region(self, transform: np.ndarray, matches: int, is_mirrored: bool) -> Region:
        """Return the place of the mark for a transform (2, 3) from the frame to an image."""
        return Region(apply(transform, self.outline), transform, matches, is_mirrored)

    def _is_whole(self, link: Link) -> bool:
        """Return whether a link has enough matches, from a large enough part of the template."""
        if len(link.first) < MIN_LOCATED:
            return False
        matched = self.features.xy[link.first]
        extent = np.ptp(self.outline, axis=0)
        covered = np.ptp(matched, axis=0) / np.maximum(extent, 1e-6)
        return bool(covered.max() ** 2 >= MIN_COVERED)


def regions_to_arrays(regions: Sequence[Region]) -> dict[str, np.ndarray]:
    """Return places of a mark as arrays; their outlines follow from the template."""
    return {
        "transforms": np.array([region.transform for region in regions], float).reshape(-1, 2, 3),
        "matches": np.array([region.matches for region in regions], int),
        "is_mirrored": np.array([region.is_mirrored for region in regions], bool),
    }
