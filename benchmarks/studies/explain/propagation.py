"""Relevance propagation as a base of the map, on development images.

    python -m benchmarks.studies.explain.propagation [--images 24] [--steps 16]
        [--groups first,maps,sift] [--metrics ap,insertion-deletion]

Explains the true class of compositions of the validation split with the embedded model; no test
split is opened. Rows are bases (ours with plain gradients, ours with gradients under propagation
rules, relevance propagation, input x gradient), each with and without affinity refinement, sums of
standardised maps, and SIFT's part under each base with controls. Columns are the average precision
(AP) of the map against the object's mask, and insertion less deletion.

**Rule for the default map**, set before the first run. A candidate is not below ours on a metric
if the 95 % bootstrap interval of its paired difference over images reaches 0 or more. Among
the candidates that are not below ours on both metrics, the default is the one with the greatest sum
of standardised gains: the mean paired difference divided by the standard deviation over images of
ours, for AP plus for insertion less deletion. Ours has the sum 0 and is a candidate itself.

The values of each image and group of rows are one file in results/propagation_maps, which a later
run with the same settings reads instead of computing them again.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import nn

import semattn
from benchmarks import RESULTS_DIR
from semattn.evaluation import Map, Setting, measures
from semattn.evaluation.measures import Case
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text
from semattn.utils.provenance import about_model

from ...datasets.objects_on_scenes import Composition, ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from .propagation_rows import GROUPS, ImageMaps
from .propagation_tables import METRICS, result_of_maps, result_of_sift

FOLDER = RESULTS_DIR / "propagation_maps"
SEED = 2  # of the compositions; the prototype used 0


def measure(
    model: nn.Module,
    maps: ImageMaps,
    composition: Composition,
    group: str,
    metrics: list[str],
    setting: Setting,
) -> dict[str, dict[str, float]]:
    """Return the metrics of all rows of a group for one image."""
    mask = torch.from_numpy(composition.mask)[None]
    values = {}
    for name, row in GROUPS[group].items():
        heat_map, patches = row(maps)
        explanation = Map(heat_map, patches, maps.grid)
        case = Case(
            model, maps.images, composition.label, composition.label, unavailable, explanation,
            mask, None, setting,
        )  # fmt: skip
        values[name] = {metric: float(measures[metric].function(case)) for metric in metrics}
    return values


def unavailable(*_: Any) -> Map:
    """Raise: the metrics of this study explain no other images."""
    raise NotImplementedError


def run(count: int, groups: list[str], metrics: list[str], setting: Setting) -> None:
    """Compute the files that are missing, group by group."""
    model = semattn.load()
    compositions = ObjectsOnScenes(default_root(), "validation", count=count, seed=SEED)
    weights = about_model(model)["weights_sha256"]
    for group in groups:
        for index in range(count):
            file = FOLDER / f"{group}_{index:03d}.json"
            about = {"weights": weights, "setting": vars(setting), "seed": SEED}
            if is_done(file, list(GROUPS[group]), metrics, about):
                continue
            composition = compositions[index]
            images = prepare(composition.image, Preprocessing.of(model))
            maps = ImageMaps(model, images, composition.label)
            values = measure(model, maps, composition, group, metrics, setting)
            write_text(file, json.dumps(about | {"values": values}) + "\n")
            print(f"{group}: {index + 1} of {count}", flush=True)


def is_done(file: Any, rows: list[str], metrics: list[str], about: dict[str, Any]) -> bool:
    """Return whether a file has these values, for the same model, images and setting."""
    if not file.is_file():
        return False
    stored = json.loads(file.read_text(encoding="utf-8"))
    values = stored.pop("values")
    has_metrics = all(set(metrics) <= row.keys() for row in values.values())
    return list(values) == rows and has_metrics and stored == json.loads(json.dumps(about))


def main() -> None:
    """Run the study and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=24, help="development images (24)")
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma-separated; default: all")
    parser.add_argument("--metrics", default=",".join(METRICS), help="comma-separated")
    parser.add_argument("--steps", type=int, default=16, help="of insertion and deletion (16)")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if not options.tables:
        setting = Setting(steps=options.steps, precision="bfloat16")
        run(options.images, options.groups.split(","), options.metrics.split(","), setting)
    stored = {
        group: [
            json.loads(file.read_text(encoding="utf-8"))["values"]
            for file in sorted(FOLDER.glob(f"{group}_*.json"))[: options.images]
        ]
        for group in GROUPS
    }
    for name, result in (
        ("propagation_maps", result_of_maps(stored, options.steps)),
        ("propagation_sift", result_of_sift(stored, options.steps)),
    ):
        write_text(RESULTS_DIR / f"{name}.json", json.dumps(result, indent=1) + "\n")
        print(result["caption"])


if __name__ == "__main__":
    main()
