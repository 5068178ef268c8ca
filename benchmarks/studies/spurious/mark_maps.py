"""Other methods on moving marks: ``python -m benchmarks.studies.spurious.mark_maps``.

Uses the models of `marks_in_models`, stored in ``--work`` or trained again, on the same images.
Kinds of patches: `discover_spurious` without recurring marks. SpRAy and attribution alone rank the
classes by their estimate of a shortcut (`other_methods`): a mark is recalled if its class is the
first. The first cue, or the map of an image, scores the pixels of the fresh images of `marks`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import RESULTS_DIR
from semattn.spurious import Discovery
from semattn.spurious.search import Search
from semattn.utils.atomic_files import write_text

from ...datasets.marked_sets import MarkedSet, hull, load_clean, load_fresh, plant_fresh
from .mark_metrics import pixel_precision
from .marked_models import Case, cases, marked_at_rate, train
from .marks_in_models import GRID, WORK, is_planted, recall, search, tensor_of
from .other_methods import mean_cosine, relevance, spray, spray_scores
from .search import BATCH
from .stored_cases import arguments, pending

RESULTS = RESULTS_DIR / "mark_maps"
MIN_IMAGES = 8  # images of a class that SpRAy clusters, at least
KINDS = "kinds of patches"
METHODS = ("SpRAy", "attribution alone", KINDS)


class KindSearch(Search):
    """Search for kinds of patches, without recurring marks."""

    def _find_marks(self, *_: Any) -> tuple[list[Any], int, int]:
        return [], 0, 0


def discover_kinds(*dataset: Any, **options: Any) -> Discovery:
    """Search for kinds of patches; parameters are those of `discover_spurious`."""
    with KindSearch(*dataset, **options) as kind_search:
        return kind_search.discover()


def run(case: Case, model: nn.Module, known: dict[str, Any]) -> dict[str, Any]:
    """Return the rank of the mark and the AP of its pixels for the methods that are not known."""
    fresh = plant_fresh(load_fresh(case.dataset, case.seed), case.kind, case.seed)
    if "SpRAy" not in known:
        known = known | run_maps(case, model, fresh)
    if KINDS not in known:
        known = known | {KINDS: run_kinds(case, model, fresh)}
    return known


def run_kinds(case: Case, model: nn.Module, fresh: MarkedSet) -> dict[str, Any]:
    """Return the rank of the mark among the kinds of patches, and the AP of the first one."""
    discovery, searched = search(case, model, discover_kinds)
    cues = discovery.cues
    inputs = tensor_of(model, fresh.images)
    scores = torch.zeros(len(inputs), GRID.patches)
    if cues:
        scores = torch.cat([cues[0].matches(batch) for batch in inputs.split(BATCH)])
    return {
        **recall(discovery, [is_planted(cue, case, searched) for cue in cues]),
        "cues": len(cues),
        "ap": map_precision(fresh, scores),
    }


def map_precision(fresh: MarkedSet, scores: Any) -> float:
    """Return the AP of the pixels of the mark by the scores (n, P) of patches."""
    hulls = np.stack([hull(mask) for mask in fresh.masks])
    return pixel_precision(hulls, GRID.upsample(torch.as_tensor(scores).float()).numpy())


def run_maps(case: Case, model: nn.Module, fresh: MarkedSet) -> dict[str, Any]:
    """Return the rank of the marked class, and the AP of the maps, for SpRAy and attribution."""
    searched = marked_at_rate(load_clean(case.dataset, case.seed), case, case.seed)
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
    return {
        name: {
            "rank": 1 + sum(value > bias[name][case.target] for value in bias[name].values()),
            "classes": len(classes),
            "ap": map_precision(fresh, scores[name]),
        }
        for name in scores
    }  # fmt: skip


def main() -> None:
    """Run the methods that have no result yet."""
    options = arguments(__doc__, RESULTS, WORK).parse_args()
    moving = (case for case in cases() if not case.twin and not case.is_fixed)
    for case, path in pending(moving, options, again=True):
        known = json.loads(path.read_text(encoding="utf-8"))["methods"] if path.exists() else {}
        if known.keys() < set(METHODS):
            methods = run(case, train(case, options.work), known)
            write_text(path, json.dumps({"case": asdict(case), "methods": methods}) + "\n")
            print(case.file, methods, flush=True)


if __name__ == "__main__":
    main()
