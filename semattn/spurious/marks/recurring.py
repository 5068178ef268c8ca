"""Marks that recur in a set of images, and the test of their frequency in each class.

Marks are found without the classes: descriptors are matched between all images, matches are
verified by geometry, and every image is searched with the template of each mark. Fisher's exact
test then compares each class with the others, so that its p-values are valid for any labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ...keypoints.descriptor_index import DescriptorIndex, background_distances
from ...keypoints.local_features import LocalFeatures
from ...keypoints.matching import MAX_RATIO, Link, concatenate, link_images, may_agree
from ...keypoints.regions import area, convex_outline
from ...utils.processes import Progress, ignore_progress
from ...utils.ray_session import TaskMap, local_map
from ..significance import fisher_p_of_counts
from .groups import group_links, make_template
from .growth import grow_template
from .template import MarkTemplate, Region

MAX_IMAGES = 4000  # images of a search; descriptors of each take 200 kB of memory
MIN_BACKGROUND, MAX_BACKGROUND = 0.1, 0.5  # quantile of the images that a mark is compared with
MAX_AREA = 0.5  # part of an image from which on a region is a repeated photograph, not a mark
MIN_PART = 0.7  # part of the images of a mark that show another, to be a part of it
SEARCHED = 128  # nearest descriptors of each descriptor of a template


@dataclass(frozen=True, eq=False)
class RecurringMark:
    """Mark, its places in the images, and the class that shows it more often than others.

    Parameters
    ----------
    template : template of the mark
    regions : places of the mark by row; rows without it are absent
    target : class with the lowest p-value
    p : p-value of Fisher's exact test, one-sided, not corrected, before the template grew
    """

    template: MarkTemplate
    regions: dict[int, list[Region]]
    target: int
    p: float

    def rows_by_matches(self) -> list[int]:
        """Return the rows that show the mark, those with the most matches first."""
        return sorted(self.regions, key=lambda row: (-self.regions[row][0].matches, row))

    def shows(self, n_images: int) -> np.ndarray:
        """Return which images (n,) show the mark."""
        shown = np.zeros(n_images, bool)
        shown[list(self.regions)] = True
        return shown


class MarkSearchResult(NamedTuple):
    """Marks by increasing p-value, and the number of tests that p-values are corrected for.

    `same_scenes` has the images of each group that shows nearly the same photograph or scene, by
    row; matches that cover a whole scene are not marks.
    """

    marks: list[RecurringMark]
    n_tests: int
    same_scenes: list[tuple[int, ...]]


def find_recurring_marks(
    features: LocalFeatures,
    labels: np.ndarray,
    image_sizes: np.ndarray,
    alpha: float,
    progress: Progress = ignore_progress,
    run_tasks: TaskMap = local_map,
) -> MarkSearchResult:
    """Return the marks of a set of images.

    Parameters
    ----------
    features : of n images
    labels : (n,), class of each image
    image_sizes : (n, 2), heights and widths, pixels
    alpha : significance level, which bounds the tests that can succeed
    progress : called with the stage, the number of steps done, and the total
    run_tasks : map over pairs of images, templates and marks, in this process or on a cluster
    """
    counts = Counter(labels.tolist())
    share = max(counts.values()) / max(1, len(labels))
    quantile = min(MAX_BACKGROUND, max(MIN_BACKGROUND, share))
    background = background_distances(features, quantile, progress)
    links: list[Link] = []
    of_photographs: list[Link] = []
    index = DescriptorIndex(features.descriptors)
    for link in link_images(features, background, index, progress, run_tasks):
        (of_photographs if _is_photograph(features, link, image_sizes) else links).append(link)
    groups = [[links[number] for number in group] for group in group_links(features, links)]
    templates = [make_template(features, background, group) for group in groups]
    median_area = float(np.median(np.prod(image_sizes, axis=1)))
    is_mark = [area(template.outline) <= MAX_AREA * median_area for template in templates]
    scenes = [group for group, keep in zip(groups, is_mark, strict=True) if not keep]
    groups = [group for group, keep in zip(groups, is_mark, strict=True) if keep]
    templates = [template for template, keep in zip(templates, is_mark, strict=True) if keep]
    candidates = _images_to_search(features, index, groups, templates)
    marks: list[RecurringMark] = []
    located = run_tasks(_locate, zip(templates, candidates, strict=True), (features,))
    for done, (template, regions) in enumerate(zip(templates, located, strict=True), 1):
        progress("locating marks", done, len(templates))
        if len(regions) > 1:
            target, p = _most_frequent_class(regions, labels, counts)
            marks.append(RecurringMark(template, regions, target, p))
    marks.sort(key=lambda mark: (mark.p, -len(mark.regions)))
    n_tests = count_tests(marks, counts, alpha)
    scenes += [
        [of_photographs[number] for number in group]
        for group in group_links(features, of_photographs)
    ]
    distinct = _without_parts(marks)
    significant = [number for number, mark in enumerate(distinct) if mark.p * n_tests < alpha]
    grown = run_tasks(
        _grow, [distinct[number] for number in significant],
        (features, background, MAX_AREA * median_area),
    )  # fmt: skip
    for done, (number, mark) in enumerate(zip(significant, grown, strict=True), 1):
        distinct[number] = mark
        progress("completing marks", done, len(significant))
    same_scenes = sorted({tuple(sorted(_linked_images(features, links))) for links in scenes})
    return MarkSearchResult(_without_parts(distinct), n_tests, same_scenes)


def _locate(
    item: tuple[MarkTemplate, Sequence[int]], features: LocalFeatures
) -> dict[int, list[Region]]:
    """Return the places of a template in some images."""
    template, rows = item
    return template.locate_features(features.of_images(rows))


def _grow(
    mark: RecurringMark, features: LocalFeatures, background: np.ndarray, max_area: float
) -> RecurringMark:
    """Return a mark with its grown template."""
    template, regions = grow_template(mark.template, mark.regions, features, background, max_area)
    return replace(mark, template=template, regions=regions)


def _images_to_search(
    features: LocalFeatures,
    index: DescriptorIndex,
    groups: Sequence[Sequence[Link]],
    templates: Sequence[MarkTemplate],
) -> list[list[int]]:
    """Return the rows in which each template may be: linked, or with enough similar descriptors."""
    if not templates:
        return []
    candidates = [_linked_images(features, group) for group in groups]
    number = np.repeat(np.arange(len(templates)), [len(part.features) for part in templates])
    limits = MAX_RATIO * np.concatenate([template.background for template in templates])
    all_features = concatenate([template.features for template in templates])
    for is_mirrored in (False, True):
        queries = all_features.mirrored_descriptors() if is_mirrored else all_features.descriptors
        if queries is None:
            continue
        distances, neighbours = index.search(queries, SEARCHED)
        first, column = np.nonzero(distances < limits[:, None])
        second = neighbours[first, column]
        pair = number[first] * features.n_images + features.image[second]
        keep = may_agree(all_features, features, first, second, is_mirrored, pair)
        for template, row in zip(*divmod(np.unique(pair[keep]), features.n_images), strict=True):
            candidates[template].add(int(row))
    return [sorted(rows) for rows in candidates]


def _linked_images(features: LocalFeatures, links: Sequence[Link]) -> set[int]:
    """Return the rows of the images that links join."""
    return {int(features.image[rows[0]]) for link in links for rows in (link.first, link.second)}


def _is_photograph(features: LocalFeatures, link: Link, image_sizes: np.ndarray) -> bool:
    """Return whether the matches of a link cover most of an image, as of the same photograph.

    Such links are left out of groups: they would join the photograph with the marks on it.
    """
    for rows in (link.first, link.second):
        least_area = MAX_AREA * float(np.prod(image_sizes[features.image[rows[0]]]))
        xy, radius = features.xy[rows], features.size[rows] / 2
        width, height = np.ptp(xy, axis=0) + 2 * radius.max()
        if width * height > least_area and area(convex_outline(xy, radius)) > least_area:
            return True
    return False


def _most_frequent_class(
    regions: dict[int, list[Region]], labels: np.ndarray, counts: Counter[int]
) -> tuple[int, float]:
    """Return the class with the lowest p-value, and the p-value."""
    shown_labels = labels[list(regions)].tolist()
    shown_counts = Counter(shown_labels)
    p_values = {
        target: fisher_p_of_counts(
            shown_counts[target],
            counts[target],
            len(regions) - shown_counts[target],
            len(labels) - counts[target],
        )
        for target in sorted(shown_counts)
        if counts[target] < len(labels)
    }
    if not p_values:
        return shown_labels[0], 1.0
    target = min(p_values, key=lambda number: p_values[number])
    return target, p_values[target]


def count_tests(marks: Sequence[RecurringMark], counts: Counter[int], alpha: float) -> int:
    """Return the number of tests that count for the correction (Tarone 1990).

    A mark in few images cannot reach a low p-value in any class. Tests that could not succeed after
    the correction do not count: the result is the least K for which at most K tests can reach
    alpha / K.
    """
    n_images = sum(counts.values())
    least = np.sort([
        least_p(len(mark.regions), size, n_images) for mark in marks for size in counts.values()
    ])  # fmt: skip
    number = 1
    while int(np.searchsorted(least, alpha / number, side="right")) > number:
        number += 1
    return number


def least_p(shown: int, size: int, n_images: int) -> float:
    """Return the lowest p-value of a mark in `shown` images for a class of `size` images."""
    inside = min(shown, size)
    return fisher_p_of_counts(inside, size, shown - inside, n_images - size)


def _without_parts(marks: Sequence[RecurringMark]) -> list[RecurringMark]:
    """Return the marks that are not a part of an earlier one: the same images and places."""
    distinct: list[RecurringMark] = []
    for mark in marks:
        if not any(_is_part(mark, previous) for previous in distinct):
            distinct.append(mark)
    return distinct


def _is_part(mark: RecurringMark, larger: RecurringMark) -> bool:
    shared = mark.regions.keys() & larger.regions.keys()
    if len(shared) < MIN_PART * len(mark.regions):
        return False
    overlaps = [_overlap(mark.regions[row], larger.regions[row]) for row in shared]
    return float(np.mean(overlaps)) > MIN_PART / 2


def _overlap(regions: Sequence[Region], others: Sequence[Region]) -> bool:
    """Return whether a region is at the place of another."""
    return any(first.overlaps(second) for first in regions for second in others)
