"""Matches of descriptors between images, verified by a similarity transform.

A match is mutual (each descriptor is among the nearest of the other's image) and much closer than
unrelated images are. Matches of two images that agree on one similarity form a link. Several links
of two images are found one after the other. The transform is OpenCV's RANSAC: with 4 to 40 matches
it finds what MAGSAC finds, and it returns the same result in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from .descriptor_index import DescriptorIndex, parts
from .detectors import _import_cv2
from .local_features import LocalFeatures

MAX_RATIO = 0.8  # greatest squared distance, as a fraction of that to unrelated images
NEIGHBOURS = 32  # nearest descriptors that are compared, over all images
PER_IMAGE = 3  # nearest descriptors of one image: letters repeat inside a mark
MIN_INLIERS = 4
MAX_ERROR = 3.0  # pixels
MAX_SCALE = 2.5  # greatest ratio of the two sizes of a mark
MAX_SIZE_ERROR = 0.8  # octaves between the size of a keypoint and the transformed one
MAX_ANGLE_ERROR = 35.0  # degrees
SCALE_BIN, ANGLE_BIN = 0.8, 30.0  # octaves, degrees: half of the cells in which matches are counted
MIN_SPREAD = 2.0  # second singular value of centred positions: the keypoints are not on a line
ITERATIONS, CONFIDENCE = 2000, 0.999
MIRROR = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True, eq=False)
class Link:
    """Matches of two regions that agree on a similarity transform.

    Parameters
    ----------
    first, second : (m,), rows of the matched features
    transform : (2, 3), maps positions of the first image to the second
    is_mirrored : whether the transform contains a reflection
    """

    first: np.ndarray
    second: np.ndarray
    transform: np.ndarray
    is_mirrored: bool


def link_images(
    features: LocalFeatures, background: np.ndarray, index: DescriptorIndex | None = None
) -> list[Link]:
    """Return the links of all pairs of images, mirrored ones too.

    Parameters
    ----------
    features : of all images
    background : (M,), see `background_distances`
    index : index of the descriptors; None to build it
    """
    index = index or DescriptorIndex(features.descriptors)
    pairs = []
    for is_mirrored in (False, True):
        queries = features.mirrored_descriptors() if is_mirrored else features.descriptors
        if queries is not None and len(queries):
            first, second = _mutual_matches(features, background, index, queries)
            pairs += [
                (*pair, is_mirrored) for pair in _by_pair(features, first, second, is_mirrored)
            ]
    links = [verify_matches(features, features, *pair) for pair in pairs]
    return list(chain.from_iterable(links))


def _mutual_matches(
    features: LocalFeatures, background: np.ndarray, index: DescriptorIndex, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (m,) and (m,) of mutual matches, each pair of images in one direction."""
    close = []
    for part in parts(len(queries)):
        distances, neighbours = index.search(queries[part], NEIGHBOURS)
        limit = MAX_RATIO * np.minimum(background[part, None], background[neighbours])
        is_close = (distances < limit) & (neighbours >= 0)
        is_close &= features.image[part, None] != features.image[neighbours]
        row, column = np.nonzero(is_close)
        close.append((row + part.start, neighbours[row, column], distances[row, column]))
    first, second, distance = (np.concatenate(columns) for columns in zip(*close, strict=True))
    keep = _rank_in_group(first * features.n_images + features.image[second], distance) < PER_IMAGE
    first, second = first[keep], second[keep]
    count = len(features)
    is_mutual = np.isin(first * count + second, second * count + first)
    is_mutual &= features.image[first] < features.image[second]
    return first[is_mutual], second[is_mutual]


def _rank_in_group(group: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the rank of each distance among those of its group, 0 for the least."""
    order = np.lexsort((distance, group))
    position = np.arange(len(group))
    starts = np.r_[True, np.diff(group[order]) != 0][: len(group)]
    rank = np.empty(len(group), int)
    rank[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    return rank


def _by_pair(
    features: LocalFeatures, first: np.ndarray, second: np.ndarray, is_mirrored: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the matches of each pair of images that may have a link."""
    pair = features.image[first] * features.n_images + features.image[second]
    keep = may_agree(features, features, first, second, is_mirrored, pair)
    first, second, pair = first[keep], second[keep], pair[keep]
    order = np.argsort(pair, kind="stable")
    ends = np.flatnonzero(np.diff(pair[order])) + 1
    return [(first[part], second[part]) for part in np.split(order, ends) if len(part)]


def may_agree(
    features: LocalFeatures,
    others: LocalFeatures,
    first: np.ndarray,
    second: np.ndarray,
    is_mirrored: bool,
    pair: np.ndarray,
) -> np.ndarray:
    """Return which matches (m,) have `MIN_INLIERS` with a similar scale and rotation in their pair.

    Scale and rotation are counted in overlapping bins (Lowe, IJCV 2004, section 7.3).
    """
    if not len(first):
        return np.zeros(0, bool)
    turn = _turn(features, others, first, second, is_mirrored) % 360
    octaves = np.log2(others.size[second] / features.size[first])
    scale_bin, turn_bin = np.floor(octaves / SCALE_BIN), np.floor(turn / ANGLE_BIN)
    n_turns = int(360 / ANGLE_BIN)
    scale_bin = (scale_bin - scale_bin.min()).astype(np.int64)
    base = np.unique(pair, return_inverse=True)[1].astype(np.int64)
    keep = np.zeros(len(first), bool)
    for scale_shift in (0, 1):
        for turn_shift in (0, 1):
            # Cells of size 2 x 2 bins, shifted by one bin in each direction.
            cell = base * (scale_bin.max() + 2) + (scale_bin + scale_shift) // 2
            cell = cell * n_turns + ((turn_bin.astype(np.int64) + turn_shift) % n_turns) // 2
            _, inverse, count = np.unique(cell, return_inverse=True, return_counts=True)
            keep |= count[inverse] >= MIN_INLIERS
    return keep


def _turn(
    features: LocalFeatures,
    others: LocalFeatures,
    first: np.ndarray,
    second: np.ndarray,
    is_mirrored: bool,
) -> np.ndarray:
    """Return the rotation of each match, degrees."""
    angle = 180 - features.angle[first] if is_mirrored else features.angle[first]
    turn: np.ndarray = others.angle[second] - angle
    return turn


def match_features(
    template: LocalFeatures, background: np.ndarray, image: LocalFeatures
) -> list[Link]:
    """Return the links of a template with one image, mirrored ones too; first is the template.

    Parameters
    ----------
    template : features of the template
    background : (T,), squared distances of the template to unrelated images
    image : features of one image
    """
    links: list[Link] = []
    if len(image) < MIN_INLIERS or len(template) < MIN_INLIERS:
        return links
    for is_mirrored in (False, True):
        queries = template.mirrored_descriptors() if is_mirrored else template.descriptors
        if queries is None:
            continue
        distance = 2 - 2 * queries @ image.descriptors.T
        first, second = np.nonzero(distance < MAX_RATIO * background[:, None])
        close = distance[first, second]
        keep = _rank_in_group(first, close) < PER_IMAGE
        keep &= _rank_in_group(second, close) < PER_IMAGE
        first, second = first[keep], second[keep]
        same_pair = np.zeros(len(first), int)
        keep = may_agree(template, image, first, second, is_mirrored, same_pair)
        first, second = first[keep], second[keep]
        links += verify_matches(template, image, first, second, is_mirrored)
    return links


def verify_matches(
    features: LocalFeatures,
    others: LocalFeatures,
    first: np.ndarray,
    second: np.ndarray,
    is_mirrored: bool,
) -> list[Link]:
    """Return the links among the matches `first` (m,) in `features` and `second` (m,) in `others`.

    A link has `MIN_INLIERS` keypoints at distinct places that are not on a line. Their sizes and
    angles agree with the transform. The matches of a link are removed before the next is searched.
    """
    cv2 = _import_cv2()
    links: list[Link] = []
    while len(first) >= MIN_INLIERS:
        source = features.xy[first] * ([-1, 1] if is_mirrored else [1, 1])
        transform, is_inlier = cv2.estimateAffinePartial2D(
            source.astype(np.float32), others.xy[second], method=cv2.RANSAC,
            ransacReprojThreshold=MAX_ERROR, maxIters=ITERATIONS, confidence=CONFIDENCE,
        )  # fmt: skip
        if transform is None:
            break
        inliers = np.flatnonzero(is_inlier[:, 0])
        if len(inliers) < MIN_INLIERS:
            break
        kept = inliers[
            _agree(features, others, first[inliers], second[inliers], transform, is_mirrored)
        ]
        kept = _distinct(first, second, kept)
        if len(kept) >= MIN_INLIERS and (
            _is_spread(features.xy[first[kept]]) and _is_spread(others.xy[second[kept]])
        ):
            whole = compose(transform, MIRROR) if is_mirrored else transform
            links.append(Link(first[kept], second[kept], whole, is_mirrored))
        first, second = np.delete(first, inliers), np.delete(second, inliers)
    return links


def _agree(
    features: LocalFeatures,
    others: LocalFeatures,
    first: np.ndarray,
    second: np.ndarray,
    transform: np.ndarray,
    is_mirrored: bool,
) -> np.ndarray:
    """Return the matches whose sizes and angles agree with a similarity (2, 3)."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        return np.zeros(len(first), bool)
    rotation = np.degrees(np.arctan2(transform[1, 0], transform[0, 0]))
    turn = _turn(features, others, first, second, is_mirrored) - rotation
    turn = (turn + 180) % 360 - 180
    octaves = np.log2(others.size[second] / features.size[first] / scale)
    agree: np.ndarray = (abs(octaves) < MAX_SIZE_ERROR) & (abs(turn) < MAX_ANGLE_ERROR)
    return agree


def _distinct(first: np.ndarray, second: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the rows of matches without those that use a feature again."""
    for values in (first, second):
        rows = rows[np.sort(np.unique(values[rows], return_index=True)[1])]
    return rows


def _is_spread(xy: np.ndarray) -> bool:
    """Return whether positions (m, 2) are at distinct places that are not on a line."""
    if len(np.unique(xy.round(), axis=0)) < MIN_INLIERS:
        return False
    return bool(np.linalg.svd(xy - xy.mean(axis=0), compute_uv=False)[1] > MIN_SPREAD)


def compose(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the affine transform (2, 3) that applies `before`, then `after`."""
    linear = after[:, :2] @ before[:, :2]
    return np.column_stack([linear, after[:, :2] @ before[:, 2] + after[:, 2]])


def invert(transform: np.ndarray) -> np.ndarray:
    """Return the inverse of an affine transform (2, 3)."""
    linear = np.linalg.inv(transform[:, :2])
    return np.column_stack([linear, -linear @ transform[:, 2]])


def apply(transform: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Return positions (m, 2) after an affine transform (2, 3)."""
    moved: np.ndarray = xy @ transform[:, :2].T + transform[:, 2]
    return moved


def concatenate(parts: Sequence[LocalFeatures]) -> LocalFeatures:
    """Return the features of several sets as one, all of image 0."""
    xy, size, angle, descriptors = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("xy", "size", "angle", "descriptors")
    )
    return LocalFeatures(xy, size, angle, descriptors, np.zeros(len(xy), int), 1)
