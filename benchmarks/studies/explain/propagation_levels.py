"""Relevance propagation on pixels and on patches, on development images.

    python -m benchmarks.studies.explain.propagation_levels [--images 8]

Three maps of `AttnLRP` for the true class of compositions of the validation split, with the
embedded model: the signed map on pixels, its means over patches, and the map of `level="patches"`.
Pixels and their means have the same insertion and deletion, which use patches. The result is
written to benchmarks/results/propagation_levels.json.
"""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

import semattn
from benchmarks import RESULTS_DIR
from semattn import AttnLRP, evaluation
from semattn.evaluation import Setting, measures
from semattn.evaluation.measures import Case
from semattn.evaluation.methods import Map
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from .propagation import unavailable

RESULT = RESULTS_DIR / "propagation_levels.json"
PIXELS, MEANS, PATCHES = "pixels", "pixels, mean of each patch", 'level="patches"'
METRICS = ("ap", "insertion-deletion")


def maps_of(model: torch.nn.Module, x: Tensor, target: int) -> dict[str, Map]:
    """Return the three maps of one image."""
    pixels = AttnLRP().explain(model, x, target=target, map_only=True)
    patches = AttnLRP(level="patches").explain(model, x, target=target, map_only=True)
    means, grid = pixels.patch_map.flatten(1), pixels.grid
    return {
        PIXELS: Map(pixels.heat_map, means, grid),
        MEANS: Map(grid.upsample(means), means, grid),
        PATCHES: Map(patches.heat_map, patches.patch_map.flatten(1), patches.grid),
    }


def main() -> None:
    """Measure the maps and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=8, help="development images (8)")
    options = parser.parse_args()
    model, setting = semattn.load(), Setting(precision="bfloat16")
    compositions = ObjectsOnScenes(default_root(), "validation", count=options.images, seed=0)
    values: dict[str, list[list[float]]] = {PIXELS: [], MEANS: [], PATCHES: []}
    for index in range(options.images):
        composition = compositions[index]
        images = prepare(composition.image, Preprocessing.of(model))
        mask = torch.from_numpy(composition.mask)[None]
        for name, explanation in maps_of(model, images.inputs, composition.label).items():
            case = Case(
                model, images, composition.label, composition.label, unavailable, explanation,
                mask, None, setting,
            )  # fmt: skip
            is_repeated = name == PIXELS  # insertion and deletion are those of the means
            values[name].append(
                [
                    float("nan") if is_repeated and metric != "ap"
                    else float(measures[metric].function(case))
                    for metric in METRICS
                ]
            )  # fmt: skip
        print(f"{index + 1} of {options.images}", flush=True)
    write_text(RESULT, json.dumps(table(values), indent=1) + "\n")


def table(values: dict[str, list[list[float]]]) -> dict[str, object]:
    """Return the means, and the paired differences of the patches from the means of pixels."""
    arrays = {name: torch.tensor(rows).double().numpy() for name, rows in values.items()}
    rows = []
    for name, array in arrays.items():
        row: dict[str, object] = {"map": name}
        for column, metric in enumerate(METRICS):
            mean = float(array[:, column].mean())
            row[metric] = None if mean != mean else mean
            if name == PATCHES:
                estimate = evaluation.difference(array[:, column], arrays[MEANS][:, column])
                row[f"{metric} difference"] = (
                    f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"
                )
        rows.append(row)
    count = len(arrays[PIXELS])
    return {
        "caption": (
            f"AttnLRP, gamma 0.05, embedded model, {count} compositions of the development split; "
            "differences in pairs with 95 % bootstrap intervals over images. Made by "
            "`python -m benchmarks.studies.explain.propagation_levels`."
        ),
        "columns": [
            {"key": "map", "title": "map"},
            {"key": "ap", "title": "AP", "format": ".3f"},
            {"key": "insertion-deletion", "title": "ins − del", "format": ".3f"},
            {"key": "ap difference", "title": "difference from the means of pixels, AP"},
            {"key": "insertion-deletion difference", "title": "ins − del"},
        ],
        "rows": rows,
        "values": {name: rows_of_map for name, rows_of_map in values.items() if name != PIXELS}
        | {PIXELS: [row[:1] for row in values[PIXELS]]},
    }


if __name__ == "__main__":
    main()
