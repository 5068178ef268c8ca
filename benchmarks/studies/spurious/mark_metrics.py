"""Recall of a planted mark, and quality of its place in images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from semattn.keypoints.local_features import LocalFeatures
from semattn.keypoints.regions import outline_mask
from semattn.spurious.marks.recurring import MarkSearchResult, RecurringMark
from semattn.spurious.marks.template import Region

from ...datasets.marked_sets import MarkedSet, hull

OVERLAP = 0.3  # mean IoU of a mark's outlines and the planted marks from which on it is recalled
MIN_MARKED = 0.5  # part of the images of a recalled mark that have the planted mark
AP_STEP = 2  # pixels: AP is over every second pixel of every second row


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the intersection over union of two masks; 0 if both are empty."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def region_iou(regions: Sequence[Region], planted: np.ndarray) -> float:
    """Return the IoU of the outlines of regions and a planted hull (H, W)."""
    size = (planted.shape[0], planted.shape[1])
    return iou(outline_mask([region.outline for region in regions], size), planted)


def is_planted(mark: RecurringMark, target: int, searched: MarkedSet, hulls: np.ndarray) -> bool:
    """Return whether a mark is the planted one: its class, its images and its places.

    `hulls` (n, H, W) are the convex hulls of the planted marks.
    """
    rows = np.array(sorted(mark.regions))
    marked = rows[searched.is_marked[rows]]
    if mark.target != target or len(marked) < MIN_MARKED * len(rows):
        return False
    return float(np.mean([region_iou(mark.regions[row], hulls[row]) for row in marked])) >= OVERLAP


def evaluate_search(
    result: MarkSearchResult, target: int, searched: MarkedSet, alpha: float
) -> dict[str, Any]:
    """Return the rank of the planted mark and the significant marks of a search."""
    hulls = np.stack([hull(mask) for mask in searched.masks])
    planted = [is_planted(mark, target, searched, hulls) for mark in result.marks]
    corrected = [mark.p * result.n_tests for mark in result.marks]
    significant = [p < alpha for p in corrected]
    return {
        "rank": planted.index(True) + 1 if any(planted) else None,
        "significant": any(np.logical_and(planted, significant)),
        "other_significant": sum(np.logical_and(np.logical_not(planted), significant).tolist()),
        "marks": len(planted), "tests": result.n_tests,
        "first": [[p, mark.target, len(mark.regions), float(searched.is_marked[list(mark.regions)]
                                                            .mean())]
                  for p, mark in zip(corrected[:5], result.marks, strict=False)],
    }  # fmt: skip


def evaluate_places(
    mark: RecurringMark | None, features: LocalFeatures, fresh: MarkedSet
) -> dict[str, float]:
    """Return how well a mark is located in fresh images; all 0 without a mark.

    `iou` is the mean over the images with the planted mark, 0 where no place is found. `detected`
    is the part of them with an IoU of `OVERLAP`, `false` the part of the other images with a place.
    `ap` is the average precision of the pixels inside the convex hull of the planted mark, scored
    by the matches of the place that contains them.
    """
    size = (fresh.masks.shape[1], fresh.masks.shape[2])
    hulls = np.stack([hull(mask) for mask in fresh.masks])
    scores = np.zeros(hulls.shape, np.float32)
    overlaps, found = np.zeros(len(hulls)), np.zeros(len(hulls), bool)
    for row, regions in (mark.template.locate_features(features) if mark else {}).items():
        for region in reversed(regions):  # the most matches last
            scores[row][outline_mask([region.outline], size)] = region.matches
        overlaps[row] = region_iou(regions, hulls[row])
        found[row] = True
    marked = fresh.is_marked
    return {
        "iou": float(overlaps[marked].mean()),
        "detected": float((overlaps[marked] >= OVERLAP).mean()),
        "false": float(found[~marked].mean()),
        "ap": pixel_precision(hulls, scores),
    }


def pixel_precision(hulls: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision of the pixels of hulls (n, H, W) by scores (n, H, W)."""
    every_second = np.s_[:, ::AP_STEP, ::AP_STEP]
    return float(average_precision_score(hulls[every_second].ravel(), scores[every_second].ravel()))
