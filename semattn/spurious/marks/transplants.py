"""Transplant of a mark into other images: the mark alone is drawn, by its matte.

If the matte cannot be estimated, as of a mark in few images, the region of the mark is pasted. What
the source shows between the strokes of the mark is then pasted too, which weakens the test: see
docs/spurious-studies.md, "How a mark is removed and transplanted".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ...keypoints.mattes import Matte, estimate_matte
from ..feature_store import FeatureStore
from ..interventions import MAX_IMAGES
from .candidates import MarkCandidate, changed_inputs, erase

Transplant: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[Tensor, Tensor]]
"""Function from rows that show the mark, and rows that get it, both (n,), to inputs (n, C, H, W).

The first are those of the images with the mark, the second those of their controls."""


def mark_transplant(
    store: FeatureStore, candidate: MarkCandidate, matte: Matte | None
) -> Transplant:
    """Return the transplant of a mark at the place that it has in its source.

    The control of a mark that is drawn is the image as it is. The control of a region that is
    pasted, for a mark without a matte, is the same region inpainted.
    """
    if matte is None:
        return partial(_paste, store, candidate)
    return partial(_draw, store, candidate, matte)


def matte_of(store: FeatureStore, candidate: MarkCandidate) -> Matte | None:
    """Return the matte of a mark, from the images with the most matches."""
    regions = candidate.mark.regions
    rows = candidate.mark.rows_by_matches()[:MAX_IMAGES]
    transforms = [regions[row][0].transform for row in rows]
    pictures = list(store.images(np.array(rows)).pixels)
    return estimate_matte(pictures, transforms, candidate.mark.template.outline)


def _draw(
    store: FeatureStore,
    candidate: MarkCandidate,
    matte: Matte,
    sources: np.ndarray,
    receivers: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """Return images with the mark drawn, and as they are."""
    images = store.images(receivers)
    with_mark = images.pixels.copy()
    for number, source in enumerate(sources.tolist()):
        for region in candidate.mark.regions[source]:
            with_mark[number] = matte.draw(with_mark[number], region.transform)
    return changed_inputs(store, images, with_mark), images.inputs


def _paste(
    store: FeatureStore, candidate: MarkCandidate, sources: np.ndarray, receivers: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return images with the region of the mark pasted, and inpainted."""
    masks = candidate.masks(store, sources)
    images, control = erase(store, receivers, masks)
    region = torch.from_numpy(masks)[:, None]
    return torch.where(region, store.inputs(sources), images), control
