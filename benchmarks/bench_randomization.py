"""What is left of a map when weights are drawn anew: ``python -m benchmarks.bench_randomization``.

The randomisation test (Adebayo et al. 2018) on the embedded model and development images: layers
are drawn anew from the output down, and each map is held against the one of the model as it is, by
Spearman's correlation over patches. What our map is a product of stands in rows of its own: a
factor made of keypoints alone cannot change.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import semattn
from semattn import evaluation
from semattn.images import Images, Preprocessing, prepare
from semattn.metrics.randomization import mprt
from semattn.utils.atomic_files import write_text

from .bench_explain import OURS
from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.fetch import default_root

RESULT = Path(__file__).parent / "results" / "randomization.json"
ROWS = {
    OURS: "",
    f"{OURS}:growth=0": "not grown",
    f"{OURS}:uniform": "without SIFT",
    f"{OURS}:uniform:growth=0": "without SIFT, not grown",
    "keypoint-density": "control: the keypoints alone",
    "keypoint-density+grown": "control: the keypoints, grown over the model's keys",
    "generic-relevance": "", "transition-attention": "", "gradient-rollout": "",
    "attention-rollout": "", "raw-attention": "", "grad-cam": "",
}  # fmt: skip
CASCADE = {
    "head": "head", "blocks.11.norm1": "and block 11", "blocks.8.norm1": "to block 8",
    "blocks.4.norm1": "to block 4", "model": "all",
}  # fmt: skip
DRAWS = 5000


def main() -> None:
    """Run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=26, help="how many (26)")
    options = parser.parse_args()
    model = semattn.load()
    methods = {row: evaluation.method(row) for row in ROWS}
    data = ObjectsOnScenes(default_root(), "validation", count=options.images)
    found: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for number, one in enumerate(data, 1):
        images = prepare(one.image, Preprocessing.of(model))

        def maps(
            other: nn.Module, images: Images = images, label: int = one.label
        ) -> dict[str, Tensor]:
            return {row: make(other, images, label).patches for row, make in methods.items()}

        every: dict[str, dict[str, float]] = {row: {} for row in ROWS}
        for layer, alike in mprt(maps, model, only=CASCADE.__contains__, seed=number):
            for row in ROWS:
                every[row][CASCADE[layer]] = float(alike[row])
        for row in ROWS:
            found[row].append(every[row])
        print(f"{number} of {len(data)}", flush=True)
    write_text(RESULT, json.dumps(result(found), indent=1) + "\n")


def result(found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The table: means over images, with intervals."""
    count = len(next(iter(found.values())))
    drawn = np.random.default_rng(0).integers(count, size=(DRAWS, count))

    def said(values: np.ndarray) -> str | None:
        if np.isnan(values).all():
            return None
        means = np.nanmean(values[drawn], axis=1)
        low, high = np.nanquantile(means, [0.025, 0.975])
        return f"{np.nanmean(values):.2f} [{low:.2f}, {high:.2f}]"

    stops = list(CASCADE.values())
    rows = [
        {
            "method": row, "what": ROWS[row],
            **{stop: said(np.array([one[stop] for one in every])) for stop in stops},
        }
        for row, every in found.items()
    ]  # fmt: skip
    return {
        "caption": (
            f"Spearman's correlation over patches with the map of the model as it is, {count} "
            "development images, the true class explained; layers are drawn anew from the output "
            "down, as they were drawn before training (`reset_parameters`). Means with 95 % "
            "bootstrap intervals over images; 1 is a map that owes nothing to what was drawn anew. "
            "A dash stands where maps became even. Made by "
            "`python -m benchmarks.bench_randomization`."
        ),
        "columns": [
            {"key": "method", "title": "method"}, {"key": "what", "title": ""},
            *({"key": stop, "title": stop} for stop in stops),
        ],
        "rows": rows,
        "manifest": {"torch": torch.__version__, "semattn": semattn.__version__},
    }  # fmt: skip


if __name__ == "__main__":
    main()
