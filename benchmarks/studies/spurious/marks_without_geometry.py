"""Search for recurring marks without geometry: the control that only counts matches.

Two images are linked if at least four descriptors match; an image shows the mark of a group if at
least five of its descriptors match. The matches, the groups and the tests are those of
`find_recurring_marks`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from semattn.keypoints.descriptor_index import DescriptorIndex, background_distances
from semattn.keypoints.local_features import LocalFeatures
from semattn.keypoints.matching import MIN_INLIERS, Link, _mutual_matches, _rank_in_group
from semattn.keypoints.regions import convex_outline
from semattn.spurious.marks import recurring
from semattn.spurious.marks.groups import MAX_FEATURES, group_links
from semattn.spurious.marks.recurring import MarkSearchResult, RecurringMark
from semattn.spurious.marks.template import MIN_LOCATED, Region


@dataclass(frozen=True, eq=False)
class DescriptorSet:
    """Descriptors of a mark, and the squared distances (T,) below which others match."""

    features: LocalFeatures
    limits: np.ndarray

    def locate_features(self, images: LocalFeatures) -> dict[int, list[Region]]:
        """Return the outline of all matching keypoints by number of image, if they are enough."""
        regions = {}
        for number in np.unique(images.image).tolist():
            if places := self._locate(images.of_images([number])):
                regions[number] = places
        return regions

    def _locate(self, image: LocalFeatures) -> list[Region]:
        distance = 2 - 2 * self.features.descriptors @ image.descriptors.T
        nearest = distance.argmin(axis=1)
        rows = np.unique(nearest[distance[np.arange(len(nearest)), nearest] < self.limits])
        if len(rows) < MIN_LOCATED:
            return []
        outline = convex_outline(image.xy[rows], image.size[rows] / 2)
        return [Region(outline, np.eye(2, 3), len(rows), False)]


def find_marks_without_geometry(
    features: LocalFeatures, labels: np.ndarray, image_sizes: np.ndarray, alpha: float
) -> MarkSearchResult:
    """Return the marks of a set of images; arguments as for `find_recurring_marks`."""
    counts = Counter(labels.tolist())
    share = max(counts.values()) / len(labels)
    quantile = min(recurring.MAX_BACKGROUND, max(recurring.MIN_BACKGROUND, share))
    background = background_distances(features, quantile)
    limits = recurring.MAX_RATIO * background
    index = DescriptorIndex(features.descriptors)
    links = _links(features, *_mutual_matches(features, background, index))
    marks: list[RecurringMark] = []
    for group in group_links(features, links):
        members = np.concatenate([np.r_[links[number].first, links[number].second]
                                  for number in group])  # fmt: skip
        rows, count = np.unique(members, return_counts=True)
        rows = rows[np.argsort(-count, kind="stable")][:MAX_FEATURES]
        template = DescriptorSet(features.rows(rows), limits[rows])
        searched = _images_to_search(index, template, features, members)
        regions = template.locate_features(features.of_images(searched))
        if len(regions) > 1:
            target, p = recurring._most_frequent_class(regions, labels, counts)
            marks.append(RecurringMark(template, regions, target, p))  # type: ignore[arg-type]
    marks.sort(key=lambda mark: (mark.p, -len(mark.regions)))
    n_tests = recurring.count_tests(marks, counts, alpha)
    return MarkSearchResult(recurring._without_parts(marks), n_tests, [])


def _links(features: LocalFeatures, first: np.ndarray, second: np.ndarray) -> list[Link]:
    """Return one link for each pair of images with enough matches at distinct keypoints."""
    pair = features.image[first] * features.n_images + features.image[second]
    order = np.argsort(pair, kind="stable")
    ends = np.flatnonzero(np.diff(pair[order])) + 1
    return [
        Link(first[part], second[part], np.eye(2, 3), False)
        for part in np.split(order, ends)
        if min(len(np.unique(first[part])), len(np.unique(second[part]))) >= MIN_INLIERS
    ]


def _images_to_search(
    index: DescriptorIndex, template: DescriptorSet, features: LocalFeatures, members: np.ndarray
) -> list[int]:
    """Return the linked images and those with enough descriptors that match the template."""
    distances, neighbours = index.search(template.features.descriptors, recurring.SEARCHED)
    first, column = np.nonzero(distances < template.limits[:, None])
    image = features.image[neighbours[first, column]]
    is_first = _rank_in_group(first * features.n_images + image, np.zeros(len(first))) == 0
    counts = np.bincount(image[is_first], minlength=features.n_images)
    linked = np.unique(features.image[members])
    return np.union1d(np.flatnonzero(counts >= MIN_LOCATED), linked).tolist()
