"""Groups of linked regions over many images, and the template of each group.

Regions of one image that share keypoints are one region; regions that a link joins show the same
mark. The classes of the images are not used.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..keypoints.local_features import LocalFeatures
from ..keypoints.matching import MIN_INLIERS, Link, apply, compose, concatenate, invert
from ..keypoints.regions import convex_outline
from .mark_template import MarkTemplate

MIN_SHARED = 2  # keypoints that two regions of one image share if they are one region
SHARED_FRACTION = 0.5  # of the keypoints of the smaller region
MAX_VIEWS = 12  # regions that a template is made of
MAX_FEATURES = 400  # keypoints of a template
SAME_PLACE = 4.0  # pixels between the positions of one keypoint of a mark in two regions


def group_links(features: LocalFeatures, links: Sequence[Link]) -> list[list[int]]:
    """Return groups of link numbers; the links of a group show the same mark, in any image."""
    parents = list(range(len(links)))

    def root(number: int) -> int:
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    sides: dict[int, list[tuple[int, frozenset[int]]]] = defaultdict(list)
    for number, link in enumerate(links):
        for rows in (link.first, link.second):
            sides[int(features.image[rows[0]])].append((number, frozenset(rows.tolist())))
    for of_image in sides.values():
        for position, (number, keypoints) in enumerate(of_image):
            for other, other_keypoints in of_image[:position]:
                if root(number) != root(other) and _is_shared(keypoints, other_keypoints):
                    parents[root(number)] = root(other)
    groups: dict[int, list[int]] = defaultdict(list)
    for number in range(len(links)):
        groups[root(number)].append(number)
    return list(groups.values())


def _is_shared(first: frozenset[int], second: frozenset[int]) -> bool:
    shared = len(first & second)
    return shared >= max(MIN_SHARED, SHARED_FRACTION * min(len(first), len(second)))


def make_template(
    features: LocalFeatures, background: np.ndarray, links: Iterable[Link]
) -> MarkTemplate:
    """Return the template of the links of one group.

    The frame is that of the image with the most matched keypoints. Keypoints of the other images
    are moved there along the links.
    """
    links = list(links)
    matched: dict[int, set[int]] = defaultdict(set)
    neighbours: dict[int, list[tuple[int, np.ndarray, bool]]] = defaultdict(list)
    for link in links:
        first, second = (int(features.image[rows[0]]) for rows in (link.first, link.second))
        matched[first] |= set(link.first.tolist())
        matched[second] |= set(link.second.tolist())
        neighbours[first].append((second, invert(link.transform), link.is_mirrored))
        neighbours[second].append((first, link.transform, link.is_mirrored))
    reference = max(
        sorted(matched), key=lambda image: (len(neighbours[image]), len(matched[image]))
    )
    views = _views(reference, neighbours)
    parts, rows = [], []
    for image, (transform, is_mirrored) in views.items():
        of_image = np.array(sorted(matched[image]))
        part = features.rows(of_image)
        parts.append(_moved(part, transform, is_mirrored))
        rows.append(of_image)
    whole = concatenate(parts)
    view = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    kept = _recurring(whole.xy, view)
    outline = convex_outline(whole.xy[kept], whole.size[kept] / 2)
    step = max(1, -(-len(kept) // MAX_FEATURES))
    kept = kept[::step]
    return MarkTemplate(whole.rows(kept), background[np.concatenate(rows)[kept]], outline)


def _views(
    reference: int, neighbours: dict[int, list[tuple[int, np.ndarray, bool]]]
) -> dict[int, tuple[np.ndarray, bool]]:
    """Return the transform of each of the nearest images to the frame of the reference."""
    views = {reference: (np.eye(2, 3), False)}
    queue = deque([reference])
    while queue and len(views) < MAX_VIEWS:
        image = queue.popleft()
        transform, is_mirrored = views[image]
        for other, to_image, is_reflection in neighbours[image]:
            if other not in views and len(views) < MAX_VIEWS:
                views[other] = (compose(transform, to_image), is_mirrored != is_reflection)
                queue.append(other)
    return views


def _moved(part: LocalFeatures, transform: np.ndarray, is_mirrored: bool) -> LocalFeatures:
    """Return features after a similarity transform (2, 3) of their image."""
    scale = float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))
    turns = np.deg2rad(part.angle)
    directions = np.stack([np.cos(turns), np.sin(turns)], axis=1) @ transform[:, :2].T
    mirrored = part.mirrored_descriptors() if is_mirrored else None
    return replace(
        part, xy=apply(transform, part.xy).astype(np.float32),
        size=(part.size * scale).astype(np.float32),
        angle=(np.degrees(np.arctan2(directions[:, 1], directions[:, 0])) % 360).astype(np.float32),
        descriptors=part.descriptors if mirrored is None else mirrored,
    )  # fmt: skip


def _recurring(xy: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Return the keypoints that another view has at the same place; all if there are too few."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(xy).query_pairs(SAME_PLACE, output_type="ndarray")
    pairs = pairs[view[pairs[:, 0]] != view[pairs[:, 1]]]
    recurring = np.unique(pairs)
    return recurring if len(recurring) >= MIN_INLIERS else np.arange(len(xy))
