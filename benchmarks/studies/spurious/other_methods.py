"""Other methods on planted cues: ``python -m benchmarks.studies.spurious.other_methods``.

Uses the models and fresh images of `bench_spurious` at rate .95. Each method scores every patch of
every fresh image, and ranks the classes by its estimate of their bias:

* SpRAy (Lapuschkin et al. 2019): spectral clustering of the relevance maps of a class. A class is
  ranked by its largest gap between eigenvalues; a patch is scored by its relevance times the mean
  map of the nearest cluster.
* attribution alone: relevance; classes are ranked by the similarity of their maps.
* occlusion alone: decrease of the log-odds when a window is grey; classes by the largest decrease.
* SIFT alone: keypoint counts; classes by the largest difference from the others at one patch.
* loss ranking: images and classes by their log-odds.
* random.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from semattn import SIFTPatchInterrelation
from semattn.keypoints import detect
from semattn.spurious.interventions import class_log_odds

from ...datasets.objects_on_scenes import NAMES
from ..prompting.arms import normalise
from .search import (
    BATCH,
    GRID,
    SEARCHES,
    WORK,
    Case,
    items_of,
    keep,
    load_fresh,
    load_model,
    remaining,
)
from .stored_cases import folders

NUM_CLUSTERED = 15  # images per class that SpRAy clusters
WINDOW = 4  # patches: side of the occluded window
MAX_CLUSTERS = 6  # clusters of a class
NEIGHBOURS = 5
METHODS = ("SpRAy", "attribution alone", "occlusion alone", "SIFT alone", "loss ranking", "random")


def relevance(model: nn.Module, inputs: Tensor, labels: np.ndarray) -> np.ndarray:
    """Return relevance (n, P) for the label, sum 1: attention times its gradient."""
    explainer = SIFTPatchInterrelation(density="uniform", affinity=0)
    parts = []
    for start in range(0, len(inputs), BATCH):
        part = slice(start, start + BATCH)
        explanation = explainer.explain(model, inputs[part], target=torch.from_numpy(labels[part]))
        parts.append(explanation.patch_map.flatten(1).float())
    maps = torch.cat(parts).numpy().clip(min=0)
    return maps / maps.sum(axis=1, keepdims=True).clip(min=1e-9)


def spray(maps: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the largest gap of the first eigenvalues, and the mean map of each cluster (k, P)."""
    pooled = (
        maps.reshape(-1, 8, 2, 8, 2).sum(axis=(2, 4)).reshape(len(maps), -1)
    )  # pooled as in the paper
    distances = np.linalg.norm(pooled[:, None] - pooled[None], axis=-1)
    affinity = np.zeros_like(distances)
    for row, order in enumerate(np.argsort(distances, axis=1)):
        affinity[row, order[1 : NEIGHBOURS + 1]] = 1
    affinity = np.maximum(affinity, affinity.T)
    degree = affinity.sum(axis=1)
    normalised_affinity = affinity / np.sqrt(degree[:, None] * degree[None])
    values = np.sort(1 - np.linalg.eigvalsh(normalised_affinity))[: MAX_CLUSTERS + 1]
    gaps = np.diff(values)[1:]
    count = int(np.argmax(gaps)) + 2
    clustering = SpectralClustering(count, affinity="precomputed", random_state=0).fit(affinity)
    return float(gaps.max()), np.stack(
        [maps[clustering.labels_ == k].mean(axis=0) for k in range(count)]
    )


def spray_scores(maps: np.ndarray, means: Sequence[np.ndarray]) -> np.ndarray:
    """Return maps (n, P) times the most similar mean map of the clusters (k, P) of each image."""
    scores = np.empty_like(maps)
    for row, (relevance_map, of_class) in enumerate(zip(maps, means, strict=True)):
        lengths = np.linalg.norm(of_class, axis=1) * np.linalg.norm(relevance_map)
        cosines = of_class @ relevance_map / np.maximum(lengths, 1e-12)
        scores[row] = relevance_map * of_class[np.argmax(cosines)]
    return scores


def occlusion_drops(model: nn.Module, inputs: Tensor, labels: np.ndarray) -> np.ndarray:
    """Return the decrease of the label's log-odds when a window is grey: (n, P)."""
    classes = torch.from_numpy(labels)
    drops = np.zeros((len(inputs), GRID.patches))
    side = WINDOW * int(GRID.cell[0])
    for start in range(0, len(inputs), BATCH):
        part = slice(start, start + BATCH)
        before = class_log_odds(model, inputs[part], classes[part])
        for top in range(0, inputs.shape[-2], side):
            for left in range(0, inputs.shape[-1], side):
                grey = inputs[part].clone()
                grey[..., top : top + side, left : left + side] = 0
                drop = (before - class_log_odds(model, grey, classes[part])).float().numpy()
                rows, columns = (
                    slice(offset // 14, offset // 14 + WINDOW) for offset in (top, left)
                )
                drops.reshape(-1, *GRID.shape)[part, rows, columns] = drop[:, None, None]
    return drops


def count_keypoints(images: np.ndarray) -> np.ndarray:
    """Return the number of keypoints of each patch (n, P)."""
    counts = np.zeros((len(images), GRID.patches))
    for row, keypoints in zip(counts, detect(images, workers=1), strict=True):
        patches = GRID.patch_of(keypoints.xy).numpy()
        np.add.at(row, patches[patches >= 0], 1)
    return counts


def mean_cosine(maps: np.ndarray) -> float:
    """Return the mean cosine similarity of two maps."""
    unit = maps / np.linalg.norm(maps, axis=1, keepdims=True).clip(min=1e-9)
    cosines = unit @ unit.T
    return float((cosines.sum() - len(cosines)) / (len(cosines) * (len(cosines) - 1)))


def run(case: Case, work: Path) -> dict[str, Any]:
    """Compute scores and rankings of every method."""
    model = load_model(case, work)
    fresh_set = load_fresh(case, model)
    data = list(items_of(case.data(NUM_CLUSTERED * len(NAMES))))
    images = np.stack([item.image for item in data])
    labels = np.array([item.label for item in data])
    inputs = normalise(model, images)
    maps = relevance(model, inputs, labels)
    fresh_maps = relevance(model, fresh_set.inputs, fresh_set.labels)
    clusters = {c: spray(maps[labels == c]) for c in range(len(NAMES))}
    means = [clusters[int(label)][1] for label in fresh_set.labels]
    fresh_log_odds = (
        class_log_odds(model, fresh_set.inputs, torch.from_numpy(fresh_set.labels)).float().numpy()
    )
    log_odds = class_log_odds(model, inputs, torch.from_numpy(labels)).float().numpy()
    drops = occlusion_drops(model, fresh_set.inputs, fresh_set.labels)
    fresh_counts, counts_of_images = count_keypoints(fresh_set.images), count_keypoints(images)
    rng = np.random.default_rng(case.seed)
    scores = {
        "SpRAy": spray_scores(fresh_maps, means), "attribution alone": fresh_maps,
        "occlusion alone": drops,
        "SIFT alone": fresh_counts,
        "loss ranking": np.repeat(fresh_log_odds[:, None], GRID.patches, axis=1),
        "random": rng.random(fresh_maps.shape),
    }  # fmt: skip
    class_indices = range(len(NAMES))
    bias_of_class = {
        "SpRAy": [clusters[c][0] for c in class_indices],
        "attribution alone": [mean_cosine(maps[labels == c]) for c in class_indices],
        "occlusion alone": [
            float(drops[fresh_set.labels == c].max(axis=1).mean()) for c in class_indices
        ],
        "SIFT alone": [
            float(
                np.abs(
                    counts_of_images[labels == c].mean(0) - counts_of_images[labels != c].mean(0)
                ).max()
            )
            for c in class_indices
        ],
        "loss ranking": [float(log_odds[labels == c].mean()) for c in class_indices],
        "random": rng.random(len(NAMES)).tolist(),
    }
    in_class = fresh_set.labels == case.planted_class
    result: dict[str, Any] = {"case": vars(case) | {"on": case.planted_class}, "methods": {}}
    for name in METHODS:
        result["methods"][name] = {
            "ap": _average_precision(fresh_set.planted, scores[name]),
            "ap_class": _average_precision(fresh_set.planted[in_class], scores[name][in_class]),
            "rank": 1 + int(sum(bias > bias_of_class[name][case.planted_class]
                                for bias in bias_of_class[name])),
            "precision10": float(fresh_set.planted[np.argsort(-scores[name].max(axis=1))[:10]]
                                 .any(axis=1).mean()),
            "scores": scores[name].astype(np.float16).tolist(),
        }  # fmt: skip
    return result


def _average_precision(planted: np.ndarray, scores: np.ndarray) -> float:
    return float(average_precision_score(planted.ravel(), scores.ravel()))


def main() -> None:
    """Run the cases that have no result yet."""
    work = folders(__doc__, SEARCHES, WORK).parse_args().work
    for case, path in remaining(work, "rivals-"):
        result = run(case, work)
        keep(path, result)
        summary = {name: (round(m["ap"], 3), m["rank"]) for name, m in result["methods"].items()}
        print(path.name, summary, flush=True)


if __name__ == "__main__":
    main()
