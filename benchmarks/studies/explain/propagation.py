"""Relevance propagation as a base of the map, on development images.

    python -m benchmarks.studies.explain.propagation [--images 24] [--steps 16]
        [--only REGEX] [--metrics ap,insertion-deletion]

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
Added during the first run, which ended before all rows were computed: rows that were not measured
on all images are no candidates.

The values of each image are one file in results/propagation_maps; a later run with the same
settings computes only the values that are missing.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import semattn
from benchmarks import RESULTS_DIR
from semattn.evaluation import Map, Setting, measures
from semattn.evaluation.measures import Case
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text
from semattn.utils.provenance import about_model

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from .propagation_rows import ROWS, ImageMaps
from .propagation_tables import METRICS, result_of_maps, result_of_sift

FOLDER = RESULTS_DIR / "propagation_maps"
SEED = 2  # of the compositions; the prototype used 0


def measure(maps: ImageMaps, row: str, metrics: list[str], setting: Setting) -> dict[str, float]:
    """Return metrics of the map of one row."""
    heat_map, patches = ROWS[row](maps)
    case = Case(
        maps.model, maps.images, maps.target, maps.target, unavailable,
        Map(heat_map, patches, maps.grid), maps.mask, None, setting,
    )  # fmt: skip
    values = {}
    for metric in metrics:
        # Insertion and deletion depend on the patches only, which several rows share.
        key = metric, row if metric == "ap" else patches.numpy().tobytes()
        if key not in maps.measured:
            maps.measured[key] = float(measures[metric].function(case))
        values[metric] = maps.measured[key]
    return values


def unavailable(*_: Any) -> Map:
    """Raise: the metrics of this study explain no other images."""
    raise NotImplementedError


def run(count: int, rows: list[str], metrics: list[str], setting: Setting) -> None:
    """Compute the values that are missing, image by image."""
    model = semattn.load()
    compositions = ObjectsOnScenes(default_root(), "validation", count=count, seed=SEED)
    weights = about_model(model)["weights_sha256"]
    about = json.loads(json.dumps({"weights": weights, "setting": vars(setting), "seed": SEED}))
    for index in range(count):
        file = FOLDER / f"{index:03d}.json"
        values = stored_values(file, about)
        missing = {
            row: [metric for metric in metrics if metric not in values.get(row, {})] for row in rows
        }
        missing = {row: names for row, names in missing.items() if names}
        if not missing:
            continue
        composition = compositions[index]
        images = prepare(composition.image, Preprocessing.of(model))
        maps = ImageMaps(model, images, composition.label, composition.mask)
        for row, names in missing.items():
            values[row] = values.get(row, {}) | measure(maps, row, names, setting)
        write_text(file, json.dumps(about | {"values": values}) + "\n")
        print(f"{index + 1} of {count}", flush=True)


def stored_values(file: Path, about: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the values of an image that were computed with these settings."""
    if not file.is_file():
        return {}
    stored = json.loads(file.read_text(encoding="utf-8"))
    values = stored.pop("values")
    return values if stored == about else {}


def main() -> None:
    """Run the study and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=24, help="development images (24)")
    parser.add_argument("--only", default="", help="regular expression of rows; default: all")
    parser.add_argument("--metrics", default=",".join(METRICS), help="comma-separated")
    parser.add_argument("--steps", type=int, default=16, help="of insertion and deletion (16)")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if not options.tables:
        rows = [row for row in ROWS if re.search(options.only, row)]
        setting = Setting(steps=options.steps, precision="bfloat16")
        run(options.images, rows, options.metrics.split(","), setting)
    files = sorted(FOLDER.glob("*.json"))[: options.images]
    stored = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    steps = {image["setting"]["steps"] for image in stored}
    if len(steps) != 1:
        raise SystemExit(f"{FOLDER}: expected files with one number of steps, got {sorted(steps)}")
    values = [image["values"] for image in stored]
    for name, result in (
        ("propagation_maps", result_of_maps(values, *steps)),
        ("propagation_sift", result_of_sift(values, *steps)),
    ):
        write_text(RESULTS_DIR / f"{name}.json", json.dumps(result, indent=1) + "\n")
        print(result["caption"])


if __name__ == "__main__":
    main()
