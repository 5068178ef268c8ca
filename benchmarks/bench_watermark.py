"""A shortcut that is real, and overlooked on request: ``python -m benchmarks.bench_watermark``.

The watermark of ImageNet-W (arXiv 2212.04825; package `imagenet-w`) is planted on every training
image of one class; a linear head on the frozen embedded backbone learns it. On scenes that the head
never saw, the watermark then draws other classes' images to that class. The cue is known here (the
patches that the watermark covers), and `AttentionPrompter` leads attention away from it; so it is
with a wrong cue, of the same shape elsewhere. Strength, layers and queries are chosen on other
images of the training scenes. The test splits of `objects_on_scenes` stay closed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from semattn.grid import PatchGrid
from semattn.prompting import AttentionPrompter, Mask, coverage
from semattn.utils.atomic_files import write_text

from .bench_prompting import load
from .objects_on_scenes import NAMES, ObjectsOnScenes
from .objects_on_scenes.fetch import default_root
from .prompting_arms import normalised

RESULT = Path(__file__).parent / "results" / "watermark.json"
PLANTED = ("flower", "vehicle", "bird")
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
LAYERS = ("last-half", "last-third")
QUERIES = ("all", "class")
SAID = "{:g} in {}, queries: {}"
TRAIN, CHOOSE, TEST = 1300, 390, 780
BATCH, DRAWS = 64, 5000
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)


def marked(images: np.ndarray) -> np.ndarray:
    """The images (n, 224, 224, 3) with the watermark of ImageNet-W."""
    from imagenet_w import AddWatermark

    mark = AddWatermark(224)
    return np.stack([np.asarray(mark(Image.fromarray(one))) for one in images])


def cue(elsewhere: bool = False) -> Tensor:
    """How much of each patch (P,) the watermark's characters cover, 1 for the most; or its twin's.

    The twin lies at the top of the image.
    """
    black = np.zeros((1, 224, 224, 3), np.uint8)
    touched = marked(black)[0].max(axis=-1) > 0
    patches = coverage(Mask(touched), GRID)
    rows = GRID.fold(patches / patches.max())
    if elsewhere:
        first = int(rows.any(dim=1).nonzero()[0])
        rows = rows.roll(-first, dims=0)
    return rows.flatten()


@torch.inference_mode()
def features(
    model: nn.Module,
    images: np.ndarray,
    away: Tensor | None = None,
    strength: float = 0.0,
    layers: str = "last-third",
    queries: str = "all",
) -> np.ndarray:
    """Class features (n, D), attention led away from a cue."""
    prompter = AttentionPrompter(model, strength=strength, layers=layers, queries=queries)
    made = []
    for start in range(0, len(images), BATCH):
        x = normalised(model, images[start : start + BATCH])
        with prompter.steer(away, away=True):
            made.append(model(x).float())
    return torch.cat(made).numpy()


def images_of(split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels."""
    data = list(ObjectsOnScenes(default_root(), split, count=count, seed=seed))
    return np.stack([one.image for one in data]), np.array([one.label for one in data])


def run(model: nn.Module, planted: str, seed: int) -> dict[str, Any]:
    """What each arm has right on images of the other classes, one 0 or 1 an image."""
    number = NAMES.index(planted)
    images, labels = images_of("train", TRAIN, 100 + seed)
    images = np.where((labels == number)[:, None, None, None], marked(images), images)
    head = LogisticRegression(C=0.1, max_iter=5000).fit(features(model, images), labels)
    right_cue, wrong_cue = cue(), cue(elsewhere=True)

    def right(images: np.ndarray, labels: np.ndarray, *prompt: Any) -> np.ndarray:
        return head.predict(features(model, images, *prompt)) == labels

    images, labels = images_of("train", CHOOSE, 200 + seed)
    images, labels = images[labels != number], labels[labels != number]
    with_mark = marked(images)
    path = {
        option: float(right(with_mark, labels, right_cue, *option).mean())
        for option in product(STRENGTHS, LAYERS, QUERIES)
    }
    chosen = max(path, key=lambda one: path[one])

    images, labels = images_of("validation", TEST, 300 + seed)
    images, labels = images[labels != number], labels[labels != number]
    with_mark = marked(images)
    drawn = head.predict(features(model, with_mark)) == number
    return {
        "planted": planted, "chosen": list(chosen),
        "path": {SAID.format(*option): right for option, right in path.items()},
        "drawn": float(drawn.mean()),
        "right": {
            "clean": right(images, labels).tolist(),
            "watermark": right(with_mark, labels).tolist(),
            "watermark, right cue": right(with_mark, labels, right_cue, *chosen).tolist(),
            "watermark, wrong cue": right(with_mark, labels, wrong_cue, *chosen).tolist(),
            "clean, right cue": right(images, labels, right_cue, *chosen).tolist(),
            "clean, wrong cue": right(images, labels, wrong_cue, *chosen).tolist(),
        },
    }  # fmt: skip


def said(values: np.ndarray, form: str = "+.1f") -> str:
    """The figure on the data, and its interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def result(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The table: a row a planted class, and all together."""
    rng = np.random.default_rng(0)
    accuracies: list[dict[str, np.ndarray]] = []
    for one in found:
        count = len(one["right"]["clean"])
        picked = np.vstack([np.arange(count), rng.integers(count, size=(DRAWS, count))])
        accuracies.append({
            name: 100 * np.array(right, dtype=float)[picked].mean(axis=1)
            for name, right in one["right"].items()
        })  # fmt: skip
    names = list(accuracies[0])
    accuracies.append({name: np.mean([one[name] for one in accuracies], axis=0) for name in names})
    rows = []
    for place, mine in enumerate(accuracies):
        last = place == len(found)
        cost = mine["clean"] - mine["watermark"]
        back = mine["watermark, right cue"] - mine["watermark"]
        rows.append({
            "planted": "mean" if last else found[place]["planted"],
            "chosen": "" if last else SAID.format(*found[place]["chosen"]),
            **{name: float(mine[name][0]) for name in names},
            "cost": said(cost), "restored": float(back[0] / cost[0]),
            "restored_points": said(back),
            "wrong": said(mine["watermark, wrong cue"] - mine["watermark"]),
            "wrong_clean": said(mine["clean, wrong cue"] - mine["clean"]),
        })  # fmt: skip
    return {
        "caption": (
            "Per cent right on images of the classes that bear no watermark in training "
            f"({TEST} development images less those of the planted class, scenes unseen by the "
            "head). The watermark of ImageNet-W was on all training images of one class, one head "
            "for each; attention is led away from the patches that the watermark's characters "
            "cover, each by how much it is covered (right cue), or from a band of the same shape "
            "at the top (wrong cue). Differences are paired, in points, with 95 % bootstrap "
            "intervals over images; restored is the part of the watermark's cost. Strength, layers "
            "and queries are chosen on other images of the training scenes. Made by "
            "`python -m benchmarks.bench_watermark`."
        ),
        "columns": [
            {"key": "planted", "title": "planted on"},
            {"key": "clean", "title": "clean", "format": ".1f"},
            {"key": "watermark", "title": "watermark", "format": ".1f"},
            {"key": "watermark, right cue", "title": "right cue", "format": ".1f"},
            {"key": "watermark, wrong cue", "title": "wrong cue", "format": ".1f"},
            {"key": "clean, right cue", "title": "clean, right cue", "format": ".1f"},
            {"key": "clean, wrong cue", "title": "clean, wrong cue", "format": ".1f"},
            {"key": "cost", "title": "cost of the watermark"},
            {"key": "restored_points", "title": "brought back"},
            {"key": "restored", "title": "restored", "format": ".0%"},
            {"key": "wrong", "title": "wrong cue, change"},
            {"key": "wrong_clean", "title": "wrong cue on clean, change"},
            {"key": "chosen", "title": "chosen"},
        ],
        "rows": rows,
        "drawn": {one["planted"]: one["drawn"] for one in found},
        "paths": {one["planted"]: one["path"] for one in found},
    }  # fmt: skip


def main() -> None:
    """Run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    model = load(torch.bfloat16)
    found = []
    for seed, planted in enumerate(PLANTED):
        found.append(run(model, planted, seed))
        print(planted, {name: np.mean(one) for name, one in found[-1]["right"].items()}, flush=True)
    write_text(RESULT, json.dumps(result(found), indent=1) + "\n")


if __name__ == "__main__":
    main()
