"""SpRAy and attribution alone on moving marks: ``python -m benchmarks.studies.spurious.mark_maps``.

Uses the models that `marks_in_models` has trained and stored in ``--work``, on the same images.
Both methods rank the classes by their estimate of a shortcut (`other_methods`): a mark is recalled
if its class is the first. Their maps score the pixels of the fresh images of `marks`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from ...datasets.marked_sets import hull, load_clean, load_fresh, plant_fresh
from .mark_metrics import pixel_precision
from .marks_in_models import GRID, Case, cases, marked_at_rate, model_file, tensor_of, train
from .other_methods import mean_cosine, relevance, spray, spray_scores

RESULTS = RESULTS_DIR / "mark_maps"
MIN_IMAGES = 8  # images of a class that SpRAy clusters, at least


def run(case: Case, model: nn.Module) -> dict[str, Any]:
    """Return the rank of the marked class and the AP of the pixels of the mark, by method."""
    searched = marked_at_rate(load_clean(case.dataset, case.seed), case, case.seed)
    fresh = plant_fresh(load_fresh(case.dataset, case.seed), case.kind, case.seed)
    maps = relevance(model, tensor_of(model, searched.images), searched.labels)
    fresh_maps = relevance(model, tensor_of(model, fresh.images), fresh.labels)
    counts = np.bincount(searched.labels, minlength=len(case.names))
    classes = np.flatnonzero(counts >= MIN_IMAGES).tolist()
    clusters = {number: spray(maps[searched.labels == number]) for number in classes}
    # Without clusters, the map of an image is multiplied by a constant.
    constant = np.ones((1, GRID.patches))
    means = [clusters[label][1] if label in clusters else constant
             for label in fresh.labels.tolist()]  # fmt: skip
    scores = {"SpRAy": spray_scores(fresh_maps, means), "attribution alone": fresh_maps}
    bias = {
        "SpRAy": {number: clusters[number][0] for number in classes},
        "attribution alone": {
            number: mean_cosine(maps[searched.labels == number]) for number in classes
        },
    }
    hulls = np.stack([hull(mask) for mask in fresh.masks])
    pixels = {name: GRID.upsample(torch.from_numpy(of_patches).float()).numpy()
              for name, of_patches in scores.items()}  # fmt: skip
    return {
        name: {
            "rank": 1 + sum(value > bias[name][case.target] for value in bias[name].values()),
            "classes": len(classes),
            "ap": pixel_precision(hulls, pixels[name]),
        }
        for name in scores
    }  # fmt: skip


def main() -> None:
    """Run the cases whose model is stored and that have no result yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-marks-in-models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="one file per case")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    for case in cases():
        path = options.results / case.file
        is_stored = model_file(case, options.work).exists()
        if case.twin or case.is_fixed or path.exists() or not is_stored:
            continue
        result = {"case": asdict(case), "methods": run(case, train(case, options.work))}
        write_text(path, json.dumps(result) + "\n")
        print(case.file, result["methods"], flush=True)


if __name__ == "__main__":
    main()
