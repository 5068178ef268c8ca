"""Suppression of a discovered cue at inference: ``python -m benchmarks.studies.spurious.loop``.

Takes the cue that `discover_spurious` ranked first on training images at rate .95
(`bench_spurious`). The prompter suppresses it on images of the test split: the class that had the
cue and the other classes, each with the cue and without. Compared with no prompt and with an
oracle, the true patches of the cue. Both suppress attention with the parameters of `semattn
spurious`; a cue that is a recurring mark is hidden in all layers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semattn.prompting import AttentionPrompter
from semattn.spurious import SpuriousCue, load_discovery

from ...datasets.objects_on_scenes import NAMES
from ..prompting.arms import normalise
from .search import (
    BATCH,
    MIN_COVERAGE,
    SEARCHES,
    WORK,
    Case,
    discovery_file,
    keep,
    load_model,
    patches_of,
    remaining,
)
from .stored_cases import folders

STRENGTH, LAYERS = 1.0, "last-half"  # as in `semattn spurious`
NUM_IN_CLASS, NUM_OTHERS = 60, 240  # images with the cue, and the same numbers without
GROUPS = ("class, cue", "class, no cue", "others, cue", "others, no cue")


class Groups:
    """Test images of the four groups."""

    def __init__(self, case: Case) -> None:
        self.labels, self.group = [], []
        images, cue_masks = [], []
        for has_cue in (True, False):
            rate = float(has_cue)
            data = case.data(
                len(NAMES) * NUM_IN_CLASS, split="test", seed=8, rate=rate, others=rate
            )
            rows = [i for i in range(len(data)) if i % len(NAMES) == case.planted_class][
                :NUM_IN_CLASS
            ]
            rows += [i for i in range(len(data)) if i % len(NAMES) != case.planted_class][
                :NUM_OTHERS
            ]
            for item in (data[i] for i in rows):
                images.append(item.image)
                cue_masks.append(item.cue)
                self.labels.append(item.label)
                self.group.append(2 * (item.label != case.planted_class) + (not has_cue))
        self.inputs = np.stack(images)
        self.planted = torch.from_numpy(patches_of(np.stack(cue_masks)) > MIN_COVERAGE).float()


def correct_predictions(
    model: nn.Module, images: Groups, suppressed: SpuriousCue | Tensor | None = None
) -> np.ndarray:
    """Return which images are classified correctly with a cue or patches (n, P) suppressed."""
    prompter = AttentionPrompter(
        model, strength=0 if suppressed is None else STRENGTH, layers=LAYERS
    )
    predictions = []
    for start in range(0, len(images.inputs), BATCH):
        rows = slice(start, start + BATCH)
        x = normalise(model, images.inputs[rows])
        steered = suppressed[rows] if isinstance(suppressed, Tensor) else suppressed
        with torch.inference_mode(), prompter.steer(steered, suppress=True):
            predictions.append(model(x).argmax(-1))
    hits: np.ndarray = torch.cat(predictions).numpy() == np.array(images.labels)
    return hits


def group_accuracies(images: Groups, hits: np.ndarray) -> list[float]:
    """Return the accuracy of each of `GROUPS`."""
    group = np.array(images.group)
    return [float(hits[group == number].mean()) for number in range(len(GROUPS))]


def run(case: Case, work: Path) -> dict[str, Any]:
    """Compute the accuracies of the arms."""
    model = load_model(case, work)
    discovery = load_discovery(discovery_file(case, work), model)
    if not discovery.cues:
        raise SystemExit(f"{case.file}: expected a candidate cue to suppress, got none")
    cue = discovery.cues[0]
    images = Groups(case)
    arms = {
        "none": correct_predictions(model, images),
        "found": correct_predictions(model, images, cue),
        "oracle": correct_predictions(model, images, images.planted),
    }
    return {
        "case": vars(case) | {"on": case.planted_class}, "confirmed": cue.confirmed,
        "class_right": cue.target == case.planted_class, "group": images.group,
        "arms": {name: {"groups": group_accuracies(images, hits), "right": hits.tolist()}
                 for name, hits in arms.items()},
    }  # fmt: skip


def main() -> None:
    """Run the searched cases that have no result yet."""
    work = folders(__doc__, SEARCHES, WORK).parse_args().work
    for case, path in remaining(work, "loop-"):
        if not discovery_file(case, work).exists():
            continue
        result = run(case, work)
        keep(path, result)
        accuracies = {
            name: np.round(arm["groups"], 2).tolist() for name, arm in result["arms"].items()
        }
        print(path.name, result["confirmed"], accuracies, flush=True)


if __name__ == "__main__":
    main()
