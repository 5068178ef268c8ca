"""Groups of linked regions over many images, and the template of each group.

Regions of one image that share keypoints are one region; regions that a link joins show the same
mark. The classes of the images are not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ...keypoints.local_features import LocalFeatures
from ...keypoints.matching import Link, apply, compose, concatenate, invert
from ...keypoints.regions import convex_outline
from .template import MarkTemplate

# Two regions of one image are one if they share more than this part of the keypoints of the
# smaller: a single wrong link of four matches, two of them on a mark and two on a repeated scene,
# joins neither.
SHARED_FRACTION = 0.5
MAX_VIEWS = 12  # regions that a template is made of
MIN_STRENGTH = 0.3  # matches of a link to a view, as a part of those of the strongest link
MAX_FEATURES = 400  # keypoints of a template
SAME_PLACE = 4.0  # pixels of the frame between the positions of two matched keypoints


class _Step(NamedTuple):
    """Link to another region: its matches, the region, and the transform from there."""

    matches: int
    region: int
    transform: np.ndarray


def group_links(features: LocalFeatures, links: Sequence[Link]) -> list[list[int]]:
    """Return groups of link numbers; the links of a group show the same mark, in any image."""
    regions = _regions(features, links)
    parents = list(range(2 * len(links)))
    for first, second in regions:
        parents[_root(parents, first)] = _root(parents, second)
    groups: dict[int, list[int]] = defaultdict(list)
    for number, (first, _) in enumerate(regions):
        groups[_root(parents, first)].append(number)
    return list(groups.values())


def _regions(features: LocalFeatures, links: Sequence[Link]) -> list[tuple[int, int]]:
    """Return the numbers of the two regions of each link; an image can have several regions."""
    sides = [rows for link in links for rows in (link.first, link.second)]
    keypoints = [frozenset(rows.tolist()) for rows in sides]
    sides_of_image: dict[int, list[int]] = defaultdict(list)
    for number, rows in enumerate(sides):
        sides_of_image[int(features.image[rows[0]])].append(number)
    parents = list(range(len(sides)))
    for numbers in sides_of_image.values():
        for position, number in enumerate(numbers):
            for other in numbers[:position]:
                roots = _root(parents, number), _root(parents, other)
                if roots[0] != roots[1] and _is_shared(keypoints[number], keypoints[other]):
                    parents[roots[0]] = roots[1]
    region = [_root(parents, number) for number in range(len(sides))]
    return list(zip(region[::2], region[1::2], strict=True))


def _root(parents: list[int], number: int) -> int:
    """Return the representative of a set of numbers, and shorten the path to it."""
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


def _is_shared(first: frozenset[int], second: frozenset[int]) -> bool:
    return len(first & second) > SHARED_FRACTION * min(len(first), len(second))


def make_template(
    features: LocalFeatures, background: np.ndarray, links: Iterable[Link]
) -> MarkTemplate:
    """Return the template of the links of one group.

    The frame is that of the region with the most links. Keypoints of the other regions are moved
    there along the links.
    """
    links = list(links)
    regions = _regions(features, links)
    matched: dict[int, set[int]] = defaultdict(set)
    neighbours: dict[int, list[_Step]] = defaultdict(list)
    for link, (first, second) in zip(links, regions, strict=True):
        matched[first] |= set(link.first.tolist())
        matched[second] |= set(link.second.tolist())
        matches = len(link.first)
        neighbours[first].append(_Step(matches, second, invert(link.transform)))
        neighbours[second].append(_Step(matches, first, link.transform))
    reference = max(
        sorted(matched), key=lambda region: (len(neighbours[region]), len(matched[region]))
    )
    views = _views(reference, neighbours)
    recurring = _recurring(features, links, regions, views)
    parts, rows = [], []
    for region, transform in views.items():
        of_region = np.array(sorted(recurring[region] or matched[region]))
        parts.append(moved(features.rows(of_region), transform))
        rows.append(of_region)
    return template_of(concatenate(parts), background[np.concatenate(rows)])


def template_of(keypoints: LocalFeatures, background: np.ndarray) -> MarkTemplate:
    """Return the template of keypoints of one frame, at most `MAX_FEATURES` of them."""
    outline = convex_outline(keypoints.xy, keypoints.size / 2)
    step = max(1, -(-len(keypoints) // MAX_FEATURES))
    return MarkTemplate(keypoints.rows(slice(None, None, step)), background[::step], outline)


def _views(reference: int, neighbours: dict[int, list[_Step]]) -> dict[int, np.ndarray]:
    """Return the transform of several regions to the frame of the reference.

    Regions are reached along the links with the most matches. Links much weaker than the strongest
    are not used: letters that look alike, and mirrored copies of symmetric frames, give such links,
    whose transforms are wrong.
    """
    strongest = max(step.matches for steps in neighbours.values() for step in steps)
    views = {reference: np.eye(2, 3)}
    steps = [(reference, step) for step in neighbours[reference]]
    while steps and len(views) < MAX_VIEWS:
        region, step = max(steps, key=lambda pair: pair[1].matches)
        if step.matches < MIN_STRENGTH * strongest:
            break
        views[step.region] = compose(views[region], step.transform)
        steps += [(step.region, following) for following in neighbours[step.region]]
        steps = [pair for pair in steps if pair[1].region not in views]
    return views


def moved(part: LocalFeatures, transform: np.ndarray) -> LocalFeatures:
    """Return features after a similarity transform (2, 3) of their image."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    turn = np.degrees(np.arctan2(transform[1, 0], transform[0, 0]))
    return replace(
        part, xy=apply(transform, part.xy).astype(np.float32),
        size=(part.size * scale).astype(np.float32),
        angle=((part.angle + turn) % 360).astype(np.float32),
    )  # fmt: skip


def _recurring(
    features: LocalFeatures, links: Sequence[Link], regions: Sequence[tuple[int, int]],
    views: dict[int, np.ndarray],
) -> dict[int, set[int]]:  # fmt: skip
    """Return the keypoints of each region that a match has at the same place of the frame."""
    recurring: dict[int, set[int]] = defaultdict(set)
    for link, (first, second) in zip(links, regions, strict=True):
        if first in views and second in views:
            places, others = (
                apply(views[region], features.xy[rows])
                for region, rows in ((first, link.first), (second, link.second))
            )
            is_same = np.hypot(*(places - others).T) < SAME_PLACE
            recurring[first] |= set(link.first[is_same].tolist())
            recurring[second] |= set(link.second[is_same].tolist())
    return recurring
