"""Effect of the keypoint density on the map: ``python -m benchmarks.studies.explain.alignment``.

Explains the true class of development images (compositions of the validation split) with the
embedded model. One row per density: the average precision (AP) of the upsampled map against the
object's mask, without affinity refinement, and the paired difference to the map without SIFT
(density "uniform"): mean and 95 % bootstrap interval over images. Differences are given for the
default layers (the last half), for objects near the centre and away from it, and for the layers
that the training of the head did not change. Controls are among the rows. The test splits are not
opened.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score

import semattn
from benchmarks import RESULTS_DIR
from semattn.attention import record
from semattn.density import Scene, concentration, densities
from semattn.images import Preprocessing, prepare
from semattn.keypoints import detect
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root

RESULT = RESULTS_DIR / "alignment.json"
ROWS = ("uniform", "count", "size", "response", "gaussian", "distinct", "surround")
CONTROLS = ("sobel", "canny", "center", "shifted", "permuted", "random")
LAYERS = (range(6, 12), range(6, 10))  # default layers, and those of them that were not trained
OFF_CENTRE_PIXELS = 44  # pixels from the centre of the frame
NUM_BOOTSTRAP = 10_000


def average_precisions(
    model: torch.nn.Module, image: np.ndarray, mask: np.ndarray, label: int
) -> Any:
    """Return the AP at half resolution of each layer set and density, from one pass."""
    images = prepare(image, Preprocessing.of(model))
    explainer = semattn.SIFTPatchInterrelation(affinity=0)
    attention_record = record(model, images.inputs, target=label, layers=explainer.layers)
    keypoints = detect(images.pixels, descriptors=True)
    scene = Scene(images.pixels, keypoints, attention_record.grid)
    truth = mask[::2, ::2].ravel()
    scores = []
    for layers in LAYERS:
        sites = tuple(site for site in attention_record.sites if site.site.layer in layers)
        selected = replace(attention_record, sites=sites)
        scores.append([])
        for name in ROWS + CONTROLS:
            patches = explainer.relevance(selected, concentration(densities[name](scene)))
            heat_map = attention_record.grid.upsample(patches)[0, ::2, ::2]
            scores[-1].append(average_precision_score(truth, heat_map.numpy().ravel()))
    return scores


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and its 95 % percentile bootstrap interval over images."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(NUM_BOOTSTRAP, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def format_interval(values: np.ndarray) -> str:
    """Format a mean difference with its interval."""
    mean, low, high = interval(values)
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def run(count: int) -> dict[str, Any]:
    """Compute the table."""
    model = semattn.load()
    compositions = ObjectsOnScenes(default_root(), "validation", count=count, seed=1)
    scores_by_image, off_centre, num_correct = [], [], 0
    for number, item in enumerate(compositions):
        scores_by_image.append(average_precisions(model, item.image, item.mask, item.label))
        off_centre.append(item.offset > OFF_CENTRE_PIXELS)
        inputs = prepare(item.image, Preprocessing.of(model)).inputs
        with torch.no_grad():
            num_correct += int(model(inputs).argmax()) == item.label
        if number % 25 == 24:
            print(f"{number + 1} of {count}", flush=True)
    scores, is_off_centre = np.array(scores_by_image), np.array(off_centre)
    rows = []
    for column, name in enumerate(ROWS + CONTROLS):
        difference, untrained = (scores[:, i, column] - scores[:, i, 0] for i in (0, 1))
        row: dict[str, Any] = {
            "density": name,
            "control": "yes" if densities[name].control else "",
            "ap": float(scores[:, 0, column].mean()),
            "untrained": None if name == "uniform" else format_interval(untrained),
        }
        for key, selected in (
            ("all", is_off_centre | ~is_off_centre),
            ("away", is_off_centre),
            ("central", ~is_off_centre),
        ):
            row[key] = None if name == "uniform" else format_interval(difference[selected])
        rows.append(row)
    return {
        "caption": (
            f"Average precision of the map against the object's mask, {count} development images "
            f"(validation scenes, learned objects; {num_correct} classified correctly), class "
            "query, without affinity refinement and image refinement. Differences are paired, to "
            "the map without SIFT (uniform), with 95 % bootstrap intervals over images. "
            f"{int(is_off_centre.sum())} objects are farther than {OFF_CENTRE_PIXELS} pixels from "
            "the centre. The last column is for layers 6 to 9 only (AP without SIFT "
            f"{scores[:, 1, 0].mean():.3f}): the head's training changed "
            "layers 10 and 11. Development figures. Made by "
            "`python -m benchmarks.studies.explain.alignment`."
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
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="development images (300)")
    options = parser.parse_args()
    result = run(options.count)
    write_text(RESULT, json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(f"{row['density']:<10} {row['ap']:.3f} {row['all'] or ''}")


if __name__ == "__main__":
    main()
