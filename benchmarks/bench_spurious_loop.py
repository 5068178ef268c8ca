"""From a found cue to a mended model: ``python -m benchmarks.bench_spurious_loop``.

The cue that `discover_spurious` ranked first on training images at rate .95 (`bench_spurious`) is
suppressed at inference, on images of the test split: the class that bore it and the others, each
with the cue and without. Beside it stand no prompt, and the oracle: the true patches of the cue.
Both lead attention away as the search's own report does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semattn.prompting import AttentionPrompter
from semattn.spurious import load_discovery

from .bench_spurious import (
    BATCH,
    SEEN,
    Case,
    arguments,
    discovery_file,
    features,
    keep,
    model_of,
    patches_of,
    remaining,
)
from .objects_on_scenes import NAMES
from .prompting_arms import normalised

STRENGTH, LAYERS = 1.0, "last-half"  # as `semattn spurious` prompts
OWN, REST = 60, 240  # images of the class, and of the others, with the cue and as many without
GROUPS = ("class, cue", "class, no cue", "others, cue", "others, no cue")


class Groups:
    """Images of the four groups, of the test split."""

    def __init__(self, case: Case) -> None:
        self.labels, self.group = [], []
        images, planted = [], []
        for with_it in (True, False):
            rate = float(with_it)
            data = case.data(len(NAMES) * OWN, split="test", seed=8, rate=rate, others=rate)
            rows = [i for i in range(len(data)) if i % len(NAMES) == case.on][:OWN]
            rows += [i for i in range(len(data)) if i % len(NAMES) != case.on][:REST]
            for one in (data[i] for i in rows):
                images.append(one.image)
                planted.append(one.cue)
                self.labels.append(one.label)
                self.group.append(2 * (one.label != case.on) + (not with_it))
        self.inputs = np.stack(images)
        self.planted = torch.from_numpy(patches_of(np.stack(planted)) > SEEN).float()


def right(model: nn.Module, on: Groups, away: Tensor | None = None) -> np.ndarray:
    """Whether the model is right on each image, attention led away from patches (n, P)."""
    prompter = AttentionPrompter(model, strength=0 if away is None else STRENGTH, layers=LAYERS)
    made = []
    for at in range(0, len(on.inputs), BATCH):
        x = normalised(model, on.inputs[at : at + BATCH])
        some = None if away is None else away[at : at + BATCH]
        with torch.inference_mode(), prompter.steer(some, away=True):
            made.append(model(x).argmax(-1))
    hits: np.ndarray = torch.cat(made).numpy() == np.array(on.labels)
    return hits


def by_group(on: Groups, hits: np.ndarray) -> list[float]:
    """Accuracy of each of `GROUPS`."""
    group = np.array(on.group)
    return [float(hits[group == number].mean()) for number in range(len(GROUPS))]


def run(case: Case, work: Path) -> dict[str, Any]:
    """Accuracies of the arms."""
    model = model_of(case, work)
    found = load_discovery(discovery_file(case, work), model)
    if not found.cues:
        raise SystemExit(f"{case.file}: no cue was tried, there is nothing to suppress")
    cue = found.cues[0]
    on = Groups(case)
    seen = features(model, normalised(model, on.inputs))
    arms = {
        "none": right(model, on),
        "found": right(model, on, torch.from_numpy(cue.detector(seen)).float()),
        "oracle": right(model, on, on.planted),
    }
    return {
        "case": vars(case) | {"on": case.on}, "confirmed": cue.confirmed,
        "class_right": cue.target == case.on, "group": on.group,
        "arms": {name: {"groups": by_group(on, hits), "right": hits.tolist()}
                 for name, hits in arms.items()},
    }  # fmt: skip


def main() -> None:
    """Run what is not done yet and has been searched."""
    work = arguments(__doc__).parse_args().work
    for case, file in remaining(work, "loop-"):
        if not discovery_file(case, work).exists():
            continue
        made = run(case, work)
        keep(file, made)
        told = {name: np.round(arm["groups"], 2).tolist() for name, arm in made["arms"].items()}
        print(file.name, made["confirmed"], told, flush=True)


if __name__ == "__main__":
    main()
