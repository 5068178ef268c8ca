"""What others make of planted cues: ``python -m benchmarks.spurious_rivals``.

The same models and fresh images as `bench_spurious` at rate .95. Each method scores every patch of
every fresh image, and ranks the classes by how biased it holds them:

* SpRAy (Lapuschkin et al. 2019): spectral clustering of the relevance maps of a class; the class
  with the widest gap between eigenvalues first; a patch by its relevance times the mean map of the
  cluster that its image is nearest to.
* attribution alone: relevance; the class whose maps are the most alike first.
* occlusion alone: what the log-odds lose where a window is grey; the class that loses the most.
* SIFT alone: keypoints; the class that differs most from the others in a place.
* loss ranking: the surest images; the surest class.
* random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import SpectralClustering
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from semattn import SIFTPatchInterrelation
from semattn.keypoints import detect
from semattn.spurious.effects import answer

from .bench_spurious import BATCH, GRID, Case, _all, arguments, fresh, keep, model_of, remaining
from .objects_on_scenes import NAMES
from .prompting_arms import normalised

EACH = 15  # images of a class that SpRAy clusters
WINDOW = 4  # patches: the side of what is occluded at once
MOST = 6  # clusters of a class
NEIGHBOURS = 5
METHODS = ("SpRAy", "attribution alone", "occlusion alone", "SIFT alone", "loss ranking", "random")


def relevance(model: nn.Module, inputs: Tensor, labels: np.ndarray) -> np.ndarray:
    """Relevance for the label (n, P), sum 1: attention times its gradient, without keypoints."""
    explainer = SIFTPatchInterrelation(density="uniform", growth=0)
    parts = []
    for at in range(0, len(inputs), BATCH):
        part = slice(at, at + BATCH)
        made = explainer.explain(model, inputs[part], target=torch.from_numpy(labels[part]))
        parts.append(made.patch_map.flatten(1).float())
    maps = torch.cat(parts).numpy().clip(min=0)
    return maps / maps.sum(axis=1, keepdims=True).clip(min=1e-9)


def spray(maps: np.ndarray) -> tuple[float, np.ndarray]:
    """The widest gap among the first eigenvalues, and the mean map of each cluster (k, P)."""
    rooms = maps.reshape(-1, 8, 2, 8, 2).sum(axis=(2, 4)).reshape(len(maps), -1)  # as it pools
    near = np.linalg.norm(rooms[:, None] - rooms[None], axis=-1)
    affinity = np.zeros_like(near)
    for row, order in enumerate(np.argsort(near, axis=1)):
        affinity[row, order[1 : NEIGHBOURS + 1]] = 1
    affinity = np.maximum(affinity, affinity.T)
    degree = affinity.sum(axis=1)
    normal = affinity / np.sqrt(degree[:, None] * degree[None])
    values = np.sort(1 - np.linalg.eigvalsh(normal))[: MOST + 1]
    gaps = np.diff(values)[1:]
    count = int(np.argmax(gaps)) + 2
    made = SpectralClustering(count, affinity="precomputed", random_state=0).fit(affinity)
    return float(gaps.max()), np.stack([maps[made.labels_ == k].mean(axis=0) for k in range(count)])


def occluded(model: nn.Module, inputs: Tensor, labels: np.ndarray) -> np.ndarray:
    """What the log-odds of the label lose where a window is grey: (n, P)."""
    classes = torch.from_numpy(labels)
    lost = np.zeros((len(inputs), GRID.patches))
    side = WINDOW * int(GRID.cell[0])
    for at in range(0, len(inputs), BATCH):
        part = slice(at, at + BATCH)
        before = answer(model, inputs[part], classes[part])
        for top in range(0, inputs.shape[-2], side):
            for left in range(0, inputs.shape[-1], side):
                grey = inputs[part].clone()
                grey[..., top : top + side, left : left + side] = 0
                drop = (before - answer(model, grey, classes[part])).float().numpy()
                rows, columns = (slice(one // 14, one // 14 + WINDOW) for one in (top, left))
                lost.reshape(-1, *GRID.shape)[part, rows, columns] = drop[:, None, None]
    return lost


def counts(images: np.ndarray) -> np.ndarray:
    """Keypoints of each patch (n, P)."""
    made = np.zeros((len(images), GRID.patches))
    for row, found in zip(made, detect(images, workers=1), strict=True):
        where = GRID.patch_of(found.xy).numpy()
        np.add.at(row, where[where >= 0], 1)
    return made


def alike(maps: np.ndarray) -> float:
    """Mean cosine of two maps."""
    unit = maps / np.linalg.norm(maps, axis=1, keepdims=True).clip(min=1e-9)
    both = unit @ unit.T
    return float((both.sum() - len(both)) / (len(both) * (len(both) - 1)))


def run(case: Case, work: Path) -> dict[str, Any]:
    """Scores and rankings of every method."""
    model = model_of(case, work)
    on = fresh(case, model)
    data = list(_all(case.data(EACH * len(NAMES))))
    images = np.stack([one.image for one in data])
    labels = np.array([one.label for one in data])
    inputs = normalised(model, images)
    maps = relevance(model, inputs, labels)
    own = relevance(model, on.inputs, on.labels)
    clusters = {c: spray(maps[labels == c]) for c in range(len(NAMES))}
    near = []
    for one, label in zip(own, on.labels, strict=True):
        means = clusters[int(label)][1]
        cosines = means @ one / np.linalg.norm(means, axis=1) / np.linalg.norm(one)
        near.append(one * means[np.argmax(cosines)])
    sure = answer(model, on.inputs, torch.from_numpy(on.labels)).float().numpy()
    known = answer(model, inputs, torch.from_numpy(labels)).float().numpy()
    drops = occluded(model, on.inputs, on.labels)
    density, every = counts(on.images), counts(images)
    rng = np.random.default_rng(case.seed)
    scores = {
        "SpRAy": np.stack(near), "attribution alone": own, "occlusion alone": drops,
        "SIFT alone": density, "loss ranking": np.repeat(sure[:, None], GRID.patches, axis=1),
        "random": rng.random(own.shape),
    }  # fmt: skip
    of = range(len(NAMES))
    biased = {
        "SpRAy": [clusters[c][0] for c in of],
        "attribution alone": [alike(maps[labels == c]) for c in of],
        "occlusion alone": [float(drops[on.labels == c].max(axis=1).mean()) for c in of],
        "SIFT alone": [
            float(np.abs(every[labels == c].mean(0) - every[labels != c].mean(0)).max()) for c in of
        ],
        "loss ranking": [float(known[labels == c].mean()) for c in of],
        "random": rng.random(len(NAMES)).tolist(),
    }
    mine = on.labels == case.on
    made: dict[str, Any] = {"case": vars(case) | {"on": case.on}, "methods": {}}
    for name in METHODS:
        made["methods"][name] = {
            "ap": _ap(on.planted, scores[name]),
            "ap_class": _ap(on.planted[mine], scores[name][mine]),
            "rank": 1 + int(sum(b > biased[name][case.on] for b in biased[name])),
            "precision10": float(on.planted[np.argsort(-scores[name].max(axis=1))[:10]]
                                 .any(axis=1).mean()),
            "scores": scores[name].astype(np.float16).tolist(),
        }  # fmt: skip
    return made


def _ap(planted: np.ndarray, scores: np.ndarray) -> float:
    return float(average_precision_score(planted.ravel(), scores.ravel()))


def main() -> None:
    """Run what is not done yet."""
    work = arguments(__doc__).parse_args().work
    for case, file in remaining(work, "rivals-"):
        made = run(case, work)
        keep(file, made)
        told = {n: (round(m["ap"], 3), m["rank"]) for n, m in made["methods"].items()}
        print(file.name, told, flush=True)


if __name__ == "__main__":
    main()
