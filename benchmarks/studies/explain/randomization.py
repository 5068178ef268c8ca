"""Model randomisation test of the explainers.

    python -m benchmarks.studies.explain.randomization

The weights of the embedded model are randomised from the output down (Adebayo et al. 2018). Each
map is compared with the map of the trained model by Spearman's correlation over patches, on
development images. The factors of our map have rows of their own: a factor that depends on
keypoints only cannot change.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import semattn
from benchmarks import RESULTS_DIR
from semattn import evaluation
from semattn.images import Images, Preprocessing, prepare
from semattn.metrics.randomization import mprt
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from .methods import OURS

RESULT = RESULTS_DIR / "randomization.json"
ROWS = {
    OURS: "",
    f"{OURS}:affinity=0": "without affinity refinement",
    f"{OURS}:uniform": "without SIFT",
    f"{OURS}:uniform:affinity=0": "without SIFT and affinity refinement",
    "keypoint-density": "control: keypoints alone",
    "keypoint-density+refined": "control: keypoints with affinity refinement",
    "generic-relevance": "", "transition-attention": "", "gradient-rollout": "",
    "attention-rollout": "", "raw-attention": "", "legrad": "", "grad-cam": "",
    "input-x-gradient": "", "attn-lrp": "", "attn-lrp:level=patches": "on patches",
    "attn-lrp:preset=localization": "with affinity refinement",
    f"{OURS}:gradient=lrp": "with gradients of propagation",
}  # fmt: skip
CASCADE = {
    "head": "head", "blocks.11.norm1": "and block 11", "blocks.8.norm1": "to block 8",
    "blocks.4.norm1": "to block 4", "model": "all",
}  # fmt: skip
DRAWS = 5000


def main() -> None:
    """Run the test and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=26, help="number of images (26)")
    options = parser.parse_args()
    model = semattn.load()
    methods = {row: evaluation.method(row) for row in ROWS}
    data = ObjectsOnScenes(default_root(), "validation", count=options.images)
    correlations: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for number, item in enumerate(data, 1):
        images = prepare(item.image, Preprocessing.of(model))

        def maps(
            randomized: nn.Module, images: Images = images, target: int = item.label
        ) -> dict[str, Tensor]:
            return {row: make(randomized, images, target).patches for row, make in methods.items()}

        by_layer: dict[str, dict[str, float]] = {row: {} for row in ROWS}
        for layer, similarity in mprt(maps, model, only=CASCADE.__contains__, seed=number):
            for row in ROWS:
                by_layer[row][CASCADE[layer]] = float(similarity[row])
        for row in ROWS:
            correlations[row].append(by_layer[row])
        print(f"{number} of {len(data)}", flush=True)
    write_text(RESULT, json.dumps(result(correlations), indent=1) + "\n")


def result(correlations: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Return the table: means over images with intervals."""
    count = len(next(iter(correlations.values())))
    indices = np.random.default_rng(0).integers(count, size=(DRAWS, count))

    def format_mean(values: np.ndarray) -> str | None:
        if np.isnan(values).all():
            return None
        means = np.nanmean(values[indices], axis=1)
        low, high = np.nanquantile(means, [0.025, 0.975])
        return f"{np.nanmean(values):.2f} [{low:.2f}, {high:.2f}]"

    layers = list(CASCADE.values())
    rows = [
        {
            "method": row, "what": ROWS[row],
            **{layer: format_mean(np.array([by_layer[layer] for by_layer in of_method]))
               for layer in layers},
        }
        for row, of_method in correlations.items()
    ]  # fmt: skip
    return {
        "caption": (
            f"Spearman's correlation over patches with the map of the trained model, {count} "
            "development images, the true class explained; layers are randomised from the output "
            "down by their initialisation (`reset_parameters`). Means with 95 % "
            "bootstrap intervals over images; 1 is a map that does not depend on the randomised "
            "layers. "
            "A dash: the map became constant. Made by "
            "`python -m benchmarks.studies.explain.randomization`."
        ),
        "columns": [
            {"key": "method", "title": "method"}, {"key": "what", "title": ""},
            *({"key": layer, "title": layer} for layer in layers),
        ],
        "rows": rows,
        "manifest": {"torch": torch.__version__, "semattn": semattn.__version__},
    }  # fmt: skip


if __name__ == "__main__":
    main()
