"""Matches of descriptors between images, verified by a similarity transform.

A match is mutual (each descriptor is among the nearest of the other's image) and much closer than
unrelated images are. Matches of two images that agree on one similarity form a link. Several links
of two images are found one after the other. The transform is OpenCV's RANSAC: with 4 to 40 matches
it finds what MAGSAC finds, and it returns the same result in every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..utils.processes import Progress, ignore_progress
from ..utils.ray_session import TaskMap, local_map
from .descriptor_index import DescriptorIndex, parts
from .local_features import LocalFeatures
from .opencv import import_cv2

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
REPORTED = 100  # pairs of images between two reports of progress
MAX_COMPARED = 2**24  # similarities of a template and images that are in memory
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
    features: LocalFeatures,
    background: np.ndarray,
    index: DescriptorIndex | None = None,
    progress: Progress = ignore_progress,
    run_tasks: TaskMap = local_map,
) -> list[Link]:
    """Return the links of all pairs of images that do not mirror one of the two.

    A mark that is mirrored in some images is linked among these and among the others;
    `match_features` finds it in all.

    Parameters
    ----------
    features : of all images
    background : (M,), see `background_distances`
    index : index of the descriptors; None to build it
    progress : called with the stage, the number of descriptors or pairs of images, and the total
    run_tasks : map that verifies the matches, in this process or on a cluster
    """
    if not len(features):
        return []
    index = index or DescriptorIndex(features.descriptors)
    first, second = _mutual_matches(features, background, index, progress)
    pair = features.image[first] * features.n_images + features.image[second]
    return _verify_pairs(features, features, first, second, False, pair, progress, run_tasks)


def _mutual_matches(
    features: LocalFeatures,
    background: np.ndarray,
    index: DescriptorIndex,
    progress: Progress = ignore_progress,
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (m,) and (m,) of mutual matches, each pair of images in one direction."""
    close = []
    for part in parts(len(features)):
        distances, neighbours = index.search(features.descriptors[part], NEIGHBOURS)
        limit = MAX_RATIO * np.minimum(background[part, None], background[neighbours])
        is_close = (distances < limit) & (neighbours >= 0)
        is_close &= features.image[part, None] != features.image[neighbours]
        row, column = np.nonzero(is_close)
        close.append((row + part.start, neighbours[row, column], distances[row, column]))
        progress("matching keypoints", part.stop, len(features))
    first, second, distance = (np.concatenate(columns) for columns in zip(*close, strict=True))
    keep = _rank_in_group(first * features.n_images + features.image[second], distance) < PER_IMAGE
    first, second = first[keep], second[keep]
    is_forward = features.image[first] < features.image[second]
    backward = second[~is_forward] * len(features) + first[~is_forward]
    first, second = first[is_forward], second[is_forward]
    is_mutual = np.isin(first * len(features) + second, backward, assume_unique=True)
    return first[is_mutual], second[is_mutual]


def _rank_in_group(group: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the rank of each distance among those of its group, 0 for the least."""
    order = np.lexsort((distance, group))
    position = np.arange(len(group))
    starts = np.r_[True, np.diff(group[order]) != 0][: len(group)]
    rank = np.empty(len(group), int)
    rank[order] = position - np.maximum.accumulate(np.where(starts, position, 0))
    return rank


def _verify_pairs(
    features: LocalFeatures,
    others: LocalFeatures,
    first: np.ndarray,
    second: np.ndarray,
    is_mirrored: bool,
    pair: np.ndarray,
    progress: Progress = ignore_progress,
    run_tasks: TaskMap = local_map,
) -> list[Link]:
    """Return the links of the matches (m,) of several pairs of images, numbered by `pair` (m,)."""
    keep = may_agree(features, others, first, second, is_mirrored, pair)
    first, second, pair = first[keep], second[keep], pair[keep]
    order = np.argsort(pair, kind="stable")
    ends = np.flatnonzero(np.diff(pair[order])) + 1
    pairs, links = np.split(order, ends), list[Link]()
    matches = [(first[rows], second[rows]) for rows in pairs]
    groups = [matches[start : start + REPORTED] for start in range(0, len(pairs), REPORTED)]
    places = tuple(part.without_descriptors() for part in (features, others))
    done = 0
    for group, verified in zip(
        groups, run_tasks(_verify_group, groups, (*places, is_mirrored)), strict=True
    ):
        links += verified
        done += len(group)
        progress("verifying matches", done, len(pairs))
    return links


def _verify_group(
    group: Sequence[tuple[np.ndarray, np.ndarray]], features: LocalFeatures, others: LocalFeatures,
    is_mirrored: bool,
) -> list[Link]:  # fmt: skip
    """Return the links among the matches of some pairs of images."""
    return [
        link for first, second in group
        for link in verify_matches(features, others, first, second, is_mirrored)
    ]  # fmt: skip


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
    template: LocalFeatures, background: np.ndarray, images: LocalFeatures
) -> list[Link]:
    """Return the links of a template with images, with SIFT also mirrored; first is the template.

    Parameters
    ----------
    template : features of the template
    background : (T,), squared distances of the template to unrelated images
    images : features of one or several images
    """
    links: list[Link] = []
    for is_mirrored in (False, True):
        queries = template.mirrored_descriptors() if is_mirrored else template.descriptors
        if queries is not None:
            first, second = _close_matches(queries, MAX_RATIO * background, images)
            links += _verify_pairs(
                template, images, first, second, is_mirrored, images.image[second]
            )
    return links


def _close_matches(
    queries: np.ndarray, limits: np.ndarray, images: LocalFeatures
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (m,) and (m,) of pairs nearer than `limits` (Q,), at most `PER_IMAGE` each.

    All descriptors are compared, in parts that bound the memory.
    """
    least = 1 - limits[:, None] / 2  # similarity of descriptors of unit length
    close = []
    for part in parts(len(images), MAX_COMPARED // max(1, len(queries))):
        similarity = queries @ images.descriptors[part].T
        hits = np.flatnonzero(similarity > least)
        first, second = divmod(hits, similarity.shape[1])
        close.append((first, second + part.start, -similarity.ravel()[hits]))
    if not close:
        return np.zeros(0, int), np.zeros(0, int)
    first, second, distance = (np.concatenate(columns) for columns in zip(*close, strict=True))
    keep = _rank_in_group(first * images.n_images + images.image[second], distance) < PER_IMAGE
    keep &= _rank_in_group(second, distance) < PER_IMAGE
    return first[keep], second[keep]


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
    cv2 = import_cv2()
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
        agreeing = inliers[
            _agree(features, others, first[inliers], second[inliers], transform, is_mirrored)
        ]
        agreeing = _distinct(first, second, agreeing)
        if len(agreeing) >= MIN_INLIERS and (
            _is_spread(features.xy[first[agreeing]]) and _is_spread(others.xy[second[agreeing]])
        ):
            complete = compose(transform, MIRROR) if is_mirrored else transform
            links.append(Link(first[agreeing], second[agreeing], complete, is_mirrored))
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
        positions: dict[int, int] = {}
        for position, value in enumerate(values[rows].tolist()):
            positions.setdefault(value, position)
        rows = rows[list(positions.values())]
    return rows


def _is_spread(xy: np.ndarray) -> bool:
    """Return whether positions (m, 2) are at distinct places that are not on a line."""
    if len(set(map(tuple, xy.round().tolist()))) < MIN_INLIERS:
        return False
    x, y = (xy - xy.mean(axis=0)).T
    xx, yy, xy_ = float(x @ x), float(y @ y), float(x @ y)
    # The lesser eigenvalue of the scatter matrix is the square of the singular value.
    return (xx + yy) / 2 - math.hypot((xx - yy) / 2, xy_) > MIN_SPREAD**2


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
    is_sift = all(part.is_sift for part in parts)
    return LocalFeatures(xy, size, angle, descriptors, np.zeros(len(xy), int), 1, is_sift)
