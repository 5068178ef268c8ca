"""Marks that a model uses: confirmed, suppressed, erased.

    python -m benchmarks.studies.spurious.marks_in_models [--part 0/2]

A model is trained on images with a mark on a part of one class (`marked_models`), and
`discover_spurious` searches other images with the same mark. The interventions of the search are
also run on the true mark: they show whether the model uses it at all.

On test images that neither the model nor the search saw, the mark of the first cue is suppressed in
all layers, or erased from the pixels (at the first rate). Controls: the true region of the mark
(oracle), the mark of another kind that `find_marks` finds in these images if it is drawn there
instead (wrong cue), and a region of the same shape at another place (wrong region).

Every case has a file in ``--results``, so that an interrupted run resumes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from semattn.grid import PatchGrid
from semattn.prompting import AttentionPrompter
from semattn.prompting.bias import HIDING_CLIP
from semattn.spurious import Discovery, discover_spurious, find_marks
from semattn.spurious.interventions import (
    InterventionContext,
    InterventionPatches,
    sample_rows,
)
from semattn.spurious.marks.cue import MarkCue
from semattn.spurious.marks.interventions import run_mark_interventions, shifted_masks
from semattn.spurious.marks.mark import Mark
from semattn.spurious.marks.masks import erase_pixels, patches_of_masks
from semattn.spurious.marks.template import Region

from ...datasets.marked_sets import MarkedSet, hull, load_clean
from ...datasets.moving_marks import MARKS
from ..prompting.arms import normalise
from .marked_models import (
    GROUPS,
    RATES,
    Case,
    cases,
    draw_mark_of_case,
    marked_at_rate,
    test_images,
    train,
)
from .search import BATCH, PREPROCESSING, keep, precision
from .stored_cases import arguments, pending

RESULTS, WORK = RESULTS_DIR / "marks_in_models", "bench-marks-in-models"
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)


def search(
    case: Case, model: nn.Module, discover: Callable[..., Discovery] = discover_spurious
) -> tuple[Discovery, MarkedSet]:
    """Return the search of images with the mark."""
    images = marked_at_rate(load_clean(case.dataset, case.seed), case, case.seed)
    if case.twin == "permuted":
        order = np.random.default_rng(case.seed).permutation(len(images.labels))
        images = replace(images, labels=images.labels[order])
    pairs = list(zip(images.images, images.labels.tolist(), strict=True))
    discovery = discover(
        model, pairs, class_names=case.names, preprocessing=PREPROCESSING, batch_size=BATCH,
        seed=case.seed,
    )  # fmt: skip
    return discovery, images


def true_effects(case: Case, model: nn.Module, images: MarkedSet) -> dict[str, float]:
    """Return the effects and p-values of the interventions on the true mark.

    It is removed by inpainting its true regions, and drawn on images of other classes.
    """
    hulls = np.stack([hull(mask) for mask in images.masks])
    in_class = images.labels == case.target
    rows = np.flatnonzero(in_class & images.is_marked)
    if not len(rows):
        return {}
    rows = sample_rows(rows, np.random.default_rng(case.seed))
    inputs = tensor_of(model, images.images)

    def patches(some: np.ndarray) -> InterventionPatches:
        marks = patches_of_masks(hulls[some], GRID)
        everywhere = np.ones_like(marks)
        return InterventionPatches(marks, ~everywhere, everywhere, is_usable=everywhere[:, 0])

    def erase(some: np.ndarray, masks: np.ndarray) -> tuple[Tensor, Tensor]:
        return inputs[some], tensor_of(model, erase_pixels(images.images[some], masks))

    def transplant(sources: np.ndarray, receivers: np.ndarray) -> tuple[Tensor, Tensor]:
        drawn = [
            draw_mark_of_case(source, images.images[receiver], case, case.seed)[0]
            for source, receiver in zip(sources.tolist(), receivers.tolist(), strict=True)
        ]
        return tensor_of(model, np.stack(drawn)), inputs[receivers]

    context = InterventionContext(
        model, GRID, lambda some: inputs[some], patches, BATCH, images.labels
    )
    others = np.flatnonzero(~in_class & ~images.is_marked)
    result = run_mark_interventions(
        context, case.target, rows, hulls[rows], others, erase, transplant, case.seed
    )
    removal, transplant = result.effects(case.target, case.seed)
    return {
        "removal": removal.mean, "removal_p": removal.p, "transplant": transplant.mean,
        "transplant_p": transplant.p, "specificity_p": transplant.specificity,
    }  # fmt: skip


def is_planted(cue: MarkCue | Any, case: Case, images: MarkedSet) -> bool:
    """Return whether a cue is the planted mark: its class, and most examples show it there."""
    if cue.target != case.target or not cue.examples:
        return False
    overlaps = []
    for example in cue.examples:
        row = int(example.name.split()[-1])
        truth = patches_of_masks(hull(images.masks[row])[None], GRID)[0]
        matches = example.matches.ravel() > 0.5
        overlaps.append((truth & matches).sum() / max(1, (truth | matches).sum()))
    return float(np.mean(overlaps)) > 0.3


def recall(discovery: Discovery, planted: Sequence[bool]) -> dict[str, Any]:
    """Return the rank of the first cue that is the planted mark, and whether one is confirmed."""
    return {
        "rank": planted.index(True) + 1 if any(planted) else None,
        "confirmed": any(
            cue.confirmed for cue, is_true in zip(discovery.cues, planted, strict=True) if is_true
        ),
    }


@torch.inference_mode()
def predictions(
    model: nn.Module, images: np.ndarray, cue: MarkCue | None = None, hidden: Any = None
) -> np.ndarray:
    """Return predicted classes, with a cue suppressed or patches (n, P) hidden in all layers."""
    predicted = []
    prompter = AttentionPrompter(model, strength=1.0, layers="all", clip=HIDING_CLIP)
    for start in range(0, len(images), BATCH):
        x = normalise(model, images[start : start + BATCH])
        weights: Any = cue
        if hidden is not None:
            weights = torch.from_numpy(hidden[start : start + BATCH]).float()
        if weights is None:
            predicted.append(model(x).argmax(-1))
            continue
        with prompter.steer(weights, suppress=True):
            predicted.append(model(x).argmax(-1))
    result: np.ndarray = torch.cat(predicted).numpy()
    return result


def arms(case: Case, model: nn.Module, cue: MarkCue | None) -> dict[str, Any]:
    """Return which test images are right in each arm, and the group of each image."""
    images, group = test_images(case)
    truth = np.stack([hull(mask) for mask in images.masks])
    regions = {
        "oracle": truth,
        "wrong region": shifted_masks(truth, truth, np.random.default_rng(case.seed)),
    }
    other = wrong_mark(case)
    if other is not None:
        found = [other.locate(image) for image in images.images]
        regions["wrong cue"] = covered_pixels(other, found)
    located = {"recall": float("nan"), "false": float("nan")}
    if cue is not None and cue.mark is not None:
        cue_regions = cue.locate(tensor_of(model, images.images))
        regions["cue"] = covered_pixels(cue.mark, cue_regions)
        is_found = np.array([bool(of_image) for of_image in cue_regions])
        located = {"recall": float(is_found[images.is_marked].mean()),
                   "false": float(is_found[~images.is_marked].mean())}  # fmt: skip
    predicted = {"none": predictions(model, images.images)}
    for name, masks in regions.items():
        erased, suppressed = (predicted["none"].copy() for _ in range(2))
        # An image without a region is not changed, and neither is its prediction.
        changed = np.flatnonzero(masks.any(axis=(1, 2)))
        if len(changed):
            pixels, of_image = images.images[changed], masks[changed]
            erased[changed] = predictions(model, erase_pixels(pixels, of_image))
            steered = (
                {"cue": cue} if name == "cue" else {"hidden": patches_of_masks(of_image, GRID)}
            )
            suppressed[changed] = predictions(model, pixels, **steered)
        predicted |= {f"{name} erased": erased, f"{name} suppressed": suppressed}
    return {
        "group": group.tolist(), "located": located,
        "right": {name: (value == images.labels).astype(int).tolist()
                  for name, value in predicted.items()},
    }  # fmt: skip


def covered_pixels(found: Mark, regions: Sequence[Sequence[Region]]) -> np.ndarray:
    """Return the pixels (n, H, W) that a mark covers in each image."""
    return np.stack([found.pixels_of(of_image, GRID.image_size) for of_image in regions])


def wrong_mark(case: Case) -> Mark | None:
    """Return the mark of another kind, found without a model in the images of the search."""
    kinds = tuple(MARKS)
    other = kinds[(kinds.index(case.kind) + 1) % len(kinds)] if case.kind in kinds else kinds[0]
    case = replace(case, kind=other, twin="")
    images = marked_at_rate(load_clean(case.dataset, case.seed), case, case.seed)
    pairs = list(zip(images.images, images.labels.tolist(), strict=True))
    return next(iter(find_marks(pairs, class_names=case.names, max_marks=1).marks), None)


def tensor_of(model: nn.Module, images: np.ndarray) -> Tensor:
    """Return images (n, H, W, 3) as inputs of the model."""
    return torch.cat([
        normalise(model, images[start : start + BATCH]) for start in range(0, len(images), BATCH)
    ])  # fmt: skip


def run(case: Case, work: Path) -> dict[str, Any]:
    """Train, search, and evaluate the first cue on test images."""
    start = time.perf_counter()
    model = train(case, work)
    trained = time.perf_counter()
    discovery, images = search(case, model)
    searched = time.perf_counter()
    planted = [is_planted(cue, case, images) for cue in discovery.cues]
    first = next((cue for cue, is_true in zip(discovery.cues, planted, strict=True)
                  if is_true and isinstance(cue, MarkCue)), None)  # fmt: skip
    result: dict[str, Any] = {
        "case": asdict(case), "precision": str(precision()), "accuracy": discovery.accuracy,
        "judged": discovery.candidates, "planted": planted, "notes": list(discovery.notes),
        **recall(discovery, planted),
        "false": sum(
            cue.confirmed for cue, is_true in zip(discovery.cues, planted, strict=True)
            if not is_true
        ),
        "cues": [
            {name: value for name, value in cue.summary().items()
             if name not in ("place", "examples", "mark")} | {"is_mark": isinstance(cue, MarkCue)}
            for cue in discovery.cues
        ],
        "true_effects": true_effects(case, model, images) if case.twin != "permuted" else {},
        "seconds": {"train": trained - start, "search": searched - trained},
    }  # fmt: skip
    if not case.twin and case.rate == RATES[0]:
        result["test"] = arms(case, model, first)
    return result


def main() -> None:
    """Run the cases that have no result yet."""
    options = arguments(__doc__, RESULTS, WORK).parse_args()
    for case, path in pending(cases(), options):
        result = run(case, options.work)
        keep(path, result)
        groups = {
            name: group_accuracies(right, result["test"]["group"])
            for name, right in result.get("test", {}).get("right", {}).items()
        }
        found = [result[name] for name in ("rank", "confirmed", "false", "true_effects", "seconds")]
        print(case.file, *found, json.dumps(groups), flush=True)


def group_accuracies(right: list[int], group: list[int]) -> list[float]:
    """Return the accuracy of each of `GROUPS`."""
    hits, groups = np.array(right), np.array(group)
    return [round(float(hits[groups == number].mean()), 3) for number in range(len(GROUPS))]


if __name__ == "__main__":
    main()
