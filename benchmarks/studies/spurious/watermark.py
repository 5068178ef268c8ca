"""Suppression of a real watermark shortcut: ``python -m benchmarks.studies.spurious.watermark``.

The watermark of ImageNet-W (arXiv 2212.04825; package `imagenet-w`) is put on every training image
of one class, and a linear head on the frozen embedded backbone learns it. On unseen scenes the
watermark then shifts images of other classes to that class. `AttentionPrompter` suppresses the
known cue (the patches that the watermark covers), or, as a control, a wrong cue of the same shape
elsewhere. Strength, layers and queries are chosen on other images of the training scenes. The test
splits of `objects_on_scenes` are not opened.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from semattn.grid import PatchGrid
from semattn.prompting import AttentionPrompter, Mask, coverage
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes import NAMES, ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from ...datasets.planted_cues import watermark
from ..prompting.arms import normalise
from ..prompting.gain import load

RESULT = RESULTS_DIR / "watermark.json"
PLANTED = ("flower", "vehicle", "bird")
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
LAYERS = ("last-half", "last-third")
QUERIES = ("all", "class")
OPTION_FORMAT = "{:g} in {}, queries: {}"
TRAIN, CHOOSE, TEST = 1300, 390, 780
BATCH, DRAWS = 64, 5000
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)


def marked(images: np.ndarray) -> np.ndarray:
    """Return the images (n, 224, 224, 3) with the watermark of ImageNet-W."""
    return np.stack([watermark(image) for image in images])


def cue(is_shifted: bool = False) -> Tensor:
    """Return the part of each patch (P,) that the watermark covers, or that of the control.

    The values are divided by their maximum. The control has the same shape, at the top.
    """
    black = np.zeros((1, 224, 224, 3), np.uint8)
    changed = marked(black)[0].max(axis=-1) > 0
    patches = coverage(Mask(changed), GRID)
    rows = GRID.fold(patches / patches.max())
    if is_shifted:
        first_row = int(rows.any(dim=1).nonzero()[0])
        rows = rows.roll(-first_row, dims=0)
    return rows.flatten()


@torch.inference_mode()
def features(
    model: nn.Module,
    images: np.ndarray,
    suppressed: Tensor | None = None,
    strength: float = 0.0,
    layers: str = "last-third",
    queries: str = "all",
) -> np.ndarray:
    """Return class features (n, D), with attention to a cue suppressed."""
    prompter = AttentionPrompter(model, strength=strength, layers=layers, queries=queries)
    class_features = []
    for start in range(0, len(images), BATCH):
        x = normalise(model, images[start : start + BATCH])
        with prompter.steer(suppressed, suppress=True):
            class_features.append(model(x).float())
    return torch.cat(class_features).numpy()


def images_of(split: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels."""
    data = list(ObjectsOnScenes(default_root(), split, count=count, seed=seed))
    return np.stack([item.image for item in data]), np.array([item.label for item in data])


def run(model: nn.Module, planted_class: str, seed: int) -> dict[str, Any]:
    """Return which images of the other classes each arm classifies correctly."""
    number = NAMES.index(planted_class)
    images, labels = images_of("train", TRAIN, 100 + seed)
    images = np.where((labels == number)[:, None, None, None], marked(images), images)
    head = LogisticRegression(C=0.1, max_iter=5000).fit(features(model, images), labels)
    right_cue, wrong_cue = cue(), cue(is_shifted=True)

    def is_right(images: np.ndarray, labels: np.ndarray, *prompt: Any) -> np.ndarray:
        return head.predict(features(model, images, *prompt)) == labels

    images, labels = images_of("train", CHOOSE, 200 + seed)
    images, labels = images[labels != number], labels[labels != number]
    with_mark = marked(images)
    accuracy_of = {
        option: float(is_right(with_mark, labels, right_cue, *option).mean())
        for option in product(STRENGTHS, LAYERS, QUERIES)
    }
    best_option = max(accuracy_of, key=lambda option: accuracy_of[option])

    images, labels = images_of("validation", TEST, 300 + seed)
    images, labels = images[labels != number], labels[labels != number]
    with_mark = marked(images)
    is_confused = head.predict(features(model, with_mark)) == number
    return {
        "planted": planted_class, "chosen": list(best_option),
        "path": {OPTION_FORMAT.format(*option): value for option, value in accuracy_of.items()},
        "drawn": float(is_confused.mean()),
        "right": {
            "clean": is_right(images, labels).tolist(),
            "watermark": is_right(with_mark, labels).tolist(),
            "watermark, right cue": is_right(with_mark, labels, right_cue, *best_option).tolist(),
            "watermark, wrong cue": is_right(with_mark, labels, wrong_cue, *best_option).tolist(),
            "clean, right cue": is_right(images, labels, right_cue, *best_option).tolist(),
            "clean, wrong cue": is_right(images, labels, wrong_cue, *best_option).tolist(),
        },
    }  # fmt: skip


def format_difference(values: np.ndarray, form: str = "+.1f") -> str:
    """Format the value on the data with its bootstrap interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return f"{values[0]:{form}} [{low:{form}}, {high:{form}}]"


def result(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the table: one row per planted class, and their mean."""
    rng = np.random.default_rng(0)
    accuracies: list[dict[str, np.ndarray]] = []
    for class_result in results:
        count = len(class_result["right"]["clean"])
        indices = np.vstack([np.arange(count), rng.integers(count, size=(DRAWS, count))])
        accuracies.append({
            name: 100 * np.array(is_right, dtype=float)[indices].mean(axis=1)
            for name, is_right in class_result["right"].items()
        })  # fmt: skip
    names = list(accuracies[0])
    accuracies.append(
        {name: np.mean([values[name] for values in accuracies], axis=0) for name in names}
    )
    rows = []
    for number, accuracy in enumerate(accuracies):
        is_mean = number == len(results)
        cost = accuracy["clean"] - accuracy["watermark"]
        restored = accuracy["watermark, right cue"] - accuracy["watermark"]
        rows.append({
            "planted": "mean" if is_mean else results[number]["planted"],
            "chosen": "" if is_mean else OPTION_FORMAT.format(*results[number]["chosen"]),
            **{name: float(accuracy[name][0]) for name in names},
            "cost": format_difference(cost), "restored": float(restored[0] / cost[0]),
            "restored_points": format_difference(restored),
            "wrong": format_difference(accuracy["watermark, wrong cue"] - accuracy["watermark"]),
            "wrong_clean": format_difference(accuracy["clean, wrong cue"] - accuracy["clean"]),
        })  # fmt: skip
    return {
        "caption": (
            "Per cent right on images of the classes without the watermark in training "
            f"({TEST} development images less those of the planted class, scenes unseen by the "
            "head). The watermark of ImageNet-W was on all training images of one class, one head "
            "for each; attention is suppressed at the patches that the watermark covers, in "
            "proportion to the covered part (right cue), or at a band of the same shape at the "
            "top (wrong cue). Differences are paired, in points, with 95 % bootstrap "
            "intervals over images; restored is the recovered part of the watermark's cost. "
            "Strength, layers "
            "and queries are chosen on other images of the training scenes. Made by "
            "`python -m benchmarks.studies.spurious.watermark`."
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
            {"key": "restored_points", "title": "recovered, points"},
            {"key": "restored", "title": "restored", "format": ".0%"},
            {"key": "wrong", "title": "wrong cue, change"},
            {"key": "wrong_clean", "title": "wrong cue on clean, change"},
            {"key": "chosen", "title": "chosen"},
        ],
        "rows": rows,
        "drawn": {class_result["planted"]: class_result["drawn"] for class_result in results},
        "paths": {class_result["planted"]: class_result["path"] for class_result in results},
    }  # fmt: skip


def main() -> None:
    """Run all classes and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    model = load(torch.bfloat16)
    results = []
    for seed, planted_class in enumerate(PLANTED):
        results.append(run(model, planted_class, seed))
        print(
            planted_class,
            {name: np.mean(values) for name, values in results[-1]["right"].items()},
            flush=True,
        )
    write_text(RESULT, json.dumps(result(results), indent=1) + "\n")


if __name__ == "__main__":
    main()
