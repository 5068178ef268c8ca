"""Errors of the location of objects, by the greatest perimeter of their salient region.

    python -m benchmarks.studies.spurious.object_location

Development images only: compositions of the training split, whose masks are known, and photographs
of CIFAR-10. Interventions on kinds of patches use images with a compact salient region
(`is_compact`); the table shows how many images each limit leaves out, and how many patches of the
objects of the other images count as off the object.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from benchmarks import RESULTS_DIR
from semattn.spurious.candidates import (
    MAX_PERIMETER,
    background_patches,
    object_patches,
    perimeter_ratio,
)
from semattn.spurious.feature_extractor import FeatureExtractor
from semattn.utils.atomic_files import write_text

from ...datasets.marked_sets import load_clean
from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from .search import BATCH, PREPROCESSING, backbone, patches_of
from .spurious_table import make_table

COUNT, SEED = 260, 1  # compositions
CIFAR_SEEDS = (0, 1)
LIMITS = (np.inf, 2.0, MAX_PERIMETER, 1.5)
SHAPE = (16, 16)
MIN_PART = 0.5  # part of a patch that the object covers


def salient_patches(images: np.ndarray) -> np.ndarray:
    """Return the salient patches (n, P) of images (n, H, W, 3)."""
    extractor = FeatureExtractor(backbone(), PREPROCESSING, "sift", 0)
    parts = []
    for start in range(0, len(images), BATCH):
        _, read, _ = extractor.read(list(images[start : start + BATCH]))
        assert read is not None
        parts.append(extractor.extract(read).objectness.numpy())
    return object_patches(np.concatenate(parts).astype(np.float64))


def patches_of_object(masks: np.ndarray) -> np.ndarray:
    """Return the patches (n, P) of which masks (n, H, W) cover more than half."""
    covered: np.ndarray = patches_of(masks) > MIN_PART
    return covered


def rows_of(
    salient: np.ndarray, objects: np.ndarray, photographs: np.ndarray, classes: np.ndarray
) -> list[dict[str, Any]]:
    """Return one row for each limit.

    Parameters
    ----------
    salient, objects : (n, P), salient patches of compositions and patches of their objects
    photographs, classes : (m, P) and (m,), salient patches of photographs, and their classes
    """
    none = np.zeros(salient.shape[1], bool)
    off_object = background_patches(salient, none, none, SHAPE)
    missed = (objects & off_object).sum(axis=1) / np.maximum(1, objects.sum(axis=1))
    perimeter, of_photographs = (perimeter_ratio(part, SHAPE) for part in (salient, photographs))
    rows = []
    for limit in LIMITS:
        is_used, is_left_out = perimeter <= limit, of_photographs > limit
        by_class = [100 * is_left_out[classes == label].mean() for label in np.unique(classes)]
        rows.append({
            "limit": "none" if np.isinf(limit) else f"{limit:g}",
            "left_out": 100 * (1 - is_used.mean()), "missed": 100 * missed[is_used].mean(),
            "bad": int((missed[is_used] > 0.3).sum()), "photographs": 100 * is_left_out.mean(),
            "classes": f"{min(by_class):.0f} to {max(by_class):.0f}",
        })  # fmt: skip
    return rows


def main() -> None:
    """Write the table."""
    items = list(ObjectsOnScenes(default_root(), split="train", count=COUNT, seed=SEED))
    sets = [load_clean("CIFAR-10", seed) for seed in CIFAR_SEEDS]
    rows = rows_of(
        salient_patches(np.stack([item.image for item in items])),
        patches_of_object(np.stack([item.mask for item in items])),
        salient_patches(np.concatenate([part.images for part in sets])),
        np.concatenate([part.labels for part in sets]),
    )
    table = make_table(
        "Perimeter of the salient region relative to that of a square of the same area. "
        f"Development images: {COUNT} compositions of the training split with known masks, and "
        f"{sum(len(part.labels) for part in sets)} photographs of CIFAR-10. Missed: patches of the "
        "object that count as off the object, mean over the images that are used; the number of "
        "images that miss more than 30 %. Made by "
        "`python -m benchmarks.studies.spurious.object_location`.",
        """
        limit | greatest perimeter
        left_out | compositions left out, % | .0f
        missed | missed, % | .1f
        bad | images that miss 30 % | d
        photographs | CIFAR-10 left out, % | .0f
        classes | by class, %
        """,
        rows,
    )
    write_text(RESULTS_DIR / "object_location.json", json.dumps(table, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
