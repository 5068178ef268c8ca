"""Growth of a template over all images in which it is located.

The first template of a mark has the keypoints that a few pairs of images share. A mark whose parts
vary, such as the digits of a timestamp, shares other keypoints in every pair, so that its template
is a fragment. All keypoints near a located fragment are moved to the frame of the template; those
that two images have at the same place of the frame are the new template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import cKDTree

from ...keypoints.local_features import LocalFeatures
from ...keypoints.matching import MAX_ANGLE_ERROR, MAX_RATIO, MAX_SIZE_ERROR, concatenate, invert
from ...keypoints.regions import area, is_inside
from .groups import MAX_VIEWS, SAME_PLACE, moved, template_of
from .template import MarkTemplate, Region

MAX_ROUNDS = 3
ENLARGEMENT = 1.6  # of the outline in each round: keypoints inside it may join the template
MIN_STEP = 1.1  # matches of a round, as a multiple of those before; else the growth ends
MIN_GAIN = 1.6  # matches after all rounds, as a multiple of those before the growth


def grow_template(
    template: MarkTemplate,
    regions: dict[int, list[Region]],
    features: LocalFeatures,
    background: np.ndarray,
    max_area: float,
) -> tuple[MarkTemplate, dict[int, list[Region]]]:
    """Return the grown template and its places; the arguments if it explains few more keypoints.

    Growth makes the outline of a complete template less exact: such a template is kept.

    Parameters
    ----------
    template : T keypoints
    regions : its places by number of image
    features, background : M keypoints of all images, and their distances to unrelated images
    max_area : area of the largest mark, pixels of the frame
    """
    grown, places = template, regions
    for _ in range(MAX_ROUNDS):
        candidate = _grow_once(grown, places, features, background)
        if candidate is None or area(candidate.outline) > max_area:
            break
        located = candidate.locate_features(features)
        if _matches(located) < MIN_STEP * _matches(places):
            break
        grown, places = candidate, located
    is_accepted = _matches(places) >= MIN_GAIN * _matches(regions)
    return (grown, places) if is_accepted else (template, regions)


def _matches(regions: Mapping[int, Sequence[Region]]) -> int:
    return sum(of_image[0].matches for of_image in regions.values())


def _grow_once(
    template: MarkTemplate,
    regions: Mapping[int, Sequence[Region]],
    features: LocalFeatures,
    background: np.ndarray,
) -> MarkTemplate | None:
    """Return the template of the keypoints that two views share; None if there are too few."""
    centre = template.outline.mean(axis=0)
    enlarged = centre + ENLARGEMENT * (template.outline - centre)
    places = [(number, of_image[0]) for number, of_image in regions.items()]
    places = [place for place in places if not place[1].is_mirrored]
    places.sort(key=lambda place: -place[1].matches)
    starts, parts, rows = features.starts, [], []
    for number, region in places[:MAX_VIEWS]:
        of_image = np.arange(starts[number], starts[number + 1])
        part = moved(features.rows(of_image), invert(region.transform))
        is_near = is_inside(part.xy, enlarged)
        parts.append(part.rows(is_near))
        rows.append(of_image[is_near])
    if len(parts) < 2:
        return None
    merged, row = concatenate(parts), np.concatenate(rows)
    view = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    recurs = _recurs(merged, view, MAX_RATIO * background[row])
    if not recurs.any():
        return None
    return template_of(merged.rows(recurs), background[row[recurs]])


def _recurs(features: LocalFeatures, view: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return which keypoints (m,) another view has at the same place, with a similar descriptor.

    `limits` (m,) are the greatest squared distances of two descriptors.
    """
    recurs = np.zeros(len(features), bool)
    if not len(features):
        return recurs
    pairs = cKDTree(features.xy).query_pairs(SAME_PLACE, output_type="ndarray")
    first, second = pairs[view[pairs[:, 0]] != view[pairs[:, 1]]].T
    octaves = np.log2(features.size[first] / features.size[second])
    turn = (features.angle[first] - features.angle[second] + 180) % 360 - 180
    similarity = np.einsum("md,md->m", features.descriptors[first], features.descriptors[second])
    keep = (abs(octaves) < MAX_SIZE_ERROR) & (abs(turn) < MAX_ANGLE_ERROR)
    keep &= 2 - 2 * similarity < np.minimum(limits[first], limits[second])
    recurs[first[keep]] = recurs[second[keep]] = True
    return recurs
