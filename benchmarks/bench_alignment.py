"""What SIFT adds to the map, on development images: ``python -m benchmarks.bench_alignment``.

The embedded model on compositions of the validation split, each explained for its true class. One
row a density: the average precision (AP) of the upsampled map, not grown, against the object's
mask, and the paired difference to the same map without SIFT (density "uniform"), mean and 95 %
bootstrap interval over images: for the default layers (the last half), together and for objects
near the centre and away from it, and for those of them that the head's training left as they were.
Controls stand among the rows. The test splits are not opened here.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

import semattn
from semattn.attention import record
from semattn.density import Scene, concentration, densities
from semattn.images import Preprocessing, prepare
from semattn.keypoints import detect
from semattn.utils.atomic_files import write_text

from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.fetch import default_root

RESULT = Path(__file__).parent / "results" / "alignment.json"
ROWS = ("uniform", "count", "size", "response", "gaussian", "distinct", "surround")
CONTROLS = ("sobel", "canny", "center", "shifted", "permuted", "random")
LAYERS = (range(6, 12), range(6, 10))  # the default; of these, the ones that were not trained
AWAY = 44  # pixels from the centre of the frame
DRAWS = 10_000


def precision(model: torch.nn.Module, image: np.ndarray, mask: np.ndarray, label: int) -> Any:
    """AP at half resolution, (layers, densities), from one pass through the model."""
    made = prepare(image, Preprocessing.of(model))
    explainer = semattn.SIFTPatchInterrelation(growth=0)
    taken = record(model, made.inputs, target=label, layers=explainer.layers)
    keypoints = detect(made.pixels, descriptors=True)
    scene = Scene(made.pixels, keypoints, taken.grid)
    truth = mask[::2, ::2].ravel()
    found = []
    for layers in LAYERS:
        sites = tuple(one for one in taken.sites if one.site.layer in layers)
        part = replace(taken, sites=sites)
        found.append([])
        for name in ROWS + CONTROLS:
            patches = explainer.relevance(part, concentration(densities[name](scene)))
            heat = taken.grid.upsample(patches)[0, ::2, ::2]
            found[-1].append(average_precision_score(truth, heat.numpy().ravel()))
    return found


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % percentile bootstrap interval over images."""
    rng = np.random.default_rng(0)
    draws = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def shown(values: np.ndarray) -> str:
    """A difference with its interval, in words for a table."""
    mean, low, high = interval(values)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def run(count: int) -> dict[str, Any]:
    """The whole table."""
    model = semattn.load()
    data = ObjectsOnScenes(default_root(), "validation", count=count, seed=1)
    table, away, right = [], [], 0
    for number, item in enumerate(data):
        table.append(precision(model, item.image, item.mask, item.label))
        away.append(item.offset > AWAY)
        inputs = prepare(item.image, Preprocessing.of(model)).inputs
        with torch.no_grad():
            right += int(model(inputs).argmax()) == item.label
        if number % 25 == 24:
            print(f"{number + 1} of {count}", flush=True)
    scores, off = np.array(table), np.array(away)
    rows = []
    for column, name in enumerate(ROWS + CONTROLS):
        difference, untrained = (scores[:, i, column] - scores[:, i, 0] for i in (0, 1))
        line: dict[str, Any] = {
            "density": name,
            "control": "yes" if densities[name].control else "",
            "ap": float(scores[:, 0, column].mean()),
            "untrained": None if name == "uniform" else shown(untrained),
        }
        for key, chosen in (("all", off | ~off), ("away", off), ("central", ~off)):
            line[key] = None if name == "uniform" else shown(difference[chosen])
        rows.append(line)
    return {
        "caption": (
            f"Average precision of the map against the object's mask, {count} development images "
            f"(validation scenes, learned objects; the model is right on {right}), row form, not "
            "grown, no refinement; differences are paired, to the map without SIFT (uniform), with "
            f"95 % bootstrap intervals over images. {int(off.sum())} objects are farther than "
            f"{AWAY} pixels from the centre. The last column is for layers 6 to 9 alone "
            f"(AP without SIFT {scores[:, 1, 0].mean():.3f}): the head's training changed "
            "layers 10 and 11. Development figures. Made by "
            "`python -m benchmarks.bench_alignment`."
        ),
        "columns": [
            {"key": "density", "title": "density"},
            {"key": "control", "title": "control"},
            {"key": "ap", "title": "AP", "format": ".3f"},
            {"key": "all", "title": "difference"},
            {"key": "away", "title": "object off centre"},
            {"key": "central", "title": "object central"},
            {"key": "untrained", "title": "layers 6 to 9"},
        ],
        "rows": rows,
    }


def main() -> None:
    """Run and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="development images (300)")
    options = parser.parse_args()
    result = run(options.count)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(f"{row['density']:<10} {row['ap']:.3f} {row['all'] or ''}")


if __name__ == "__main__":
    main()
