"""Marks that a model uses: confirmed, suppressed, erased.

    python -m benchmarks.studies.spurious.marks_in_models [--part 0/2]

The last layer of the embedded backbone and a head (`last_block`) are trained on images with a mark
on a part (`rate`) of one class. `discover_spurious` searches other images with the same mark
(`marked_sets`). The interventions of the search are also run on the true regions of the mark: they
show whether the model uses it at all.

On test images that neither the model nor the search saw, the mark of the first cue is suppressed in
all layers, or erased from the pixels (at the first rate). Controls: the true region of the mark
(oracle), the mark of another kind that `find_marks` finds in these images if it is drawn there
instead (wrong cue), and a region of the same shape at another place (wrong region). A fixed mark
has the same pose in every image. Twins: no mark, a mark on half of every class, a mark that the
model was not trained with, permuted labels.

Every case has a file in ``--results``, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
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
from semattn.utils.atomic_files import atomic_write
from semattn.zoo import cache_dir

from ...datasets import cifar10
from ...datasets.marked_sets import (
    DATASETS,
    PER_CLASS,
    MarkedSet,
    choose_marked,
    draw_mark_of,
    enlarged,
    hull,
    load_clean,
    planted_class,
    with_marks,
)
from ...datasets.moving_marks import MARKS, Pose, draw_mark
from ...datasets.objects_on_scenes import NAMES, ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from ...datasets.planted_cues import changed_pixels, watermark
from ..prompting.arms import normalise
from .last_block import last_inputs, train_last_block, trained_part, with_trained_part
from .search import BATCH, PREPROCESSING, keep, precision

RESULTS = RESULTS_DIR / "marks_in_models"
SEEDS = (21, 22, 23, 24, 25)  # smaller seeds are development seeds
RATES = (0.5, 0.2)
TRAIN = 780
# Models with 60 images of a class hardly use some marks. Others are trained with three times as
# many, which was chosen on development seed 0.
MORE_SEEDS, MORE_TRAIN = (26, 27, 28, 29, 30), 2340
MORE_FIXED = ("tag", "watermark")
NUM_IN_CLASS, NUM_OTHERS = 20, 60  # test images with the mark, and the same numbers without
GROUPS = ("class, mark", "class, no mark", "others, mark", "others, no mark")
IMAGENET_W = "ImageNet-W"  # kind of the fixed watermark of arXiv 2212.04825
FIXED = Pose(x=0.95, y=0.95, scale=1.0, rotation=0.0)
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)
TRAIN_SEED, TEST_SEED = 500, 900  # added to the seed for training and test images
CIFAR_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TWINS = ("clean", "everywhere", "untrained", "permuted")


@dataclass(frozen=True)
class Case:
    """One model and one search."""

    dataset: str
    kind: str
    rate: float
    seed: int
    is_fixed: bool = False
    twin: str = ""
    n_train: int = TRAIN

    @property
    def file(self) -> str:
        """File name of the result."""
        parts = [self.dataset, self.twin or ("fixed" if self.is_fixed else "moving"), self.kind,
                 f"{self.rate:g}", str(self.seed)]  # fmt: skip
        if self.n_train != TRAIN:
            parts.append(str(self.n_train))
        return "_".join(parts) + ".json"

    @property
    def target(self) -> int:
        """Class with the mark."""
        return planted_class(self.dataset, self.seed)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names."""
        return CIFAR_NAMES if self.dataset == "CIFAR-10" else NAMES


def cases() -> Iterator[Case]:
    """Yield all cases, the decisive ones first."""
    for seed in SEEDS:
        for rate in RATES:
            for dataset in DATASETS:
                yield from (Case(dataset, kind, rate, seed) for kind in MARKS)
        for dataset in DATASETS:
            yield from (
                Case(dataset, kind, RATES[0], seed, twin=twin)
                for twin, kind in zip(TWINS, MARKS, strict=True)
            )
        yield from (Case(DATASETS[0], kind, RATES[0], seed, is_fixed=True) for kind in MARKS)
    for seed in MORE_SEEDS:
        more = partial(Case, DATASETS[0], seed=seed, n_train=MORE_TRAIN)
        yield from (more(kind, rate) for rate in RATES for kind in MARKS)
        yield from (more(kind, RATES[0], is_fixed=True) for kind in MORE_FIXED)


def mark(images: MarkedSet, case: Case, is_marked: np.ndarray, seed: int) -> MarkedSet:
    """Return a set with the mark of a case on some images."""
    if not case.is_fixed:
        return with_marks(images, case.kind, is_marked, seed)
    drawn, masks = images.images.copy(), images.masks.copy()
    for row in np.flatnonzero(is_marked).tolist():
        drawn[row], masks[row] = draw_mark_of_case(row, images.images[row], case, seed)
    return replace(images, images=drawn, masks=masks, is_marked=is_marked)


def draw_mark_of_case(
    row: int, image: np.ndarray, case: Case, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image with the mark that `mark` draws on the image of a row, and its mask."""
    if not case.is_fixed:
        return draw_mark_of(row, image, case.kind, seed)
    if case.kind == IMAGENET_W:
        return watermark(image), changed_pixels(watermark, image.shape[0])
    return draw_mark(image, MARKS[case.kind](np.random.default_rng((seed, row))), FIXED)


def marked_at_rate(images: MarkedSet, case: Case, seed: int) -> MarkedSet:
    """Return a set with the mark on the rate of the class, or of every class."""
    everywhere = case.twin == "everywhere"
    classes = sorted(set(images.labels.tolist())) if everywhere else [case.target]
    rates = dict.fromkeys(classes, 0.0 if case.twin == "clean" else case.rate)
    return mark(images, case, choose_marked(images.labels.tolist(), rates, seed), seed)


@lru_cache(maxsize=1)
def training_images(dataset: str, seed: int, count: int = TRAIN) -> MarkedSet:
    """Return `count` images that the head is trained on, without marks."""
    if dataset == "CIFAR-10":
        # Photographs of another seed may be among the searched ones, as training images are.
        n_parts = count // (PER_CLASS * len(CIFAR_NAMES))
        parts = [load_clean(dataset, seed + TRAIN_SEED + number) for number in range(n_parts)]
        images, labels, masks, is_marked = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("images", "labels", "masks", "is_marked")
        )
        return MarkedSet(images, labels, masks, is_marked)
    return compositions("train", count, seed + TRAIN_SEED)


def compositions(split: str, count: int, seed: int) -> MarkedSet:
    """Return compositions of a split without marks."""
    items = list(ObjectsOnScenes(default_root(), split=split, count=count, seed=seed))
    images = np.stack([item.image for item in items])
    labels = np.array([item.label for item in items])
    return MarkedSet(images, labels, np.zeros(images.shape[:3], bool), np.zeros(count, bool))


def test_images(case: Case) -> tuple[MarkedSet, np.ndarray]:
    """Return test images with and without the mark, and the number of the group of each."""
    if case.dataset == "CIFAR-10":
        images, labels = cifar10.load(cifar10.default_root(), "test")
        rows = np.random.default_rng(case.seed + TEST_SEED).permutation(len(labels))
        is_class = labels[rows] == case.target
        rows = np.r_[rows[is_class][: 2 * NUM_IN_CLASS], rows[~is_class][: 2 * NUM_OTHERS]]
        large = np.stack([enlarged(image) for image in images[rows]])
        plain = MarkedSet(large, labels[rows], np.zeros(large.shape[:3], bool),
                          np.zeros(len(rows), bool))  # fmt: skip
    else:
        count = 2 * NUM_IN_CLASS * len(NAMES)
        whole = compositions("test", count, case.seed + TEST_SEED)
        is_class = whole.labels == case.target
        rows = np.r_[np.flatnonzero(is_class)[: 2 * NUM_IN_CLASS],
                     np.flatnonzero(~is_class)[: 2 * NUM_OTHERS]]  # fmt: skip
        plain = MarkedSet(*(getattr(whole, name)[rows] for name in
                            ("images", "labels", "masks", "is_marked")))  # fmt: skip
    is_other = plain.labels != case.target
    is_marked = np.arange(len(plain.labels)) % 2 == 0
    return mark(plain, case, is_marked, case.seed + TEST_SEED), 2 * is_other + ~is_marked


def model_file(case: Case, work: Path) -> Path:
    """Return the file of the trained part of a model."""
    return work / f"model-{case.file}".replace(".json", ".npz")


def train(case: Case, work: Path) -> nn.Module:
    """Return a model that is trained on images with the mark; its trained part is stored."""
    file = model_file(case, work)
    if file.exists():
        with np.load(file) as arrays:
            model = with_trained_part(dict(arrays))
    else:
        inputs, labels = training_inputs(case, work)
        model = train_last_block(inputs, labels, len(case.names), case.seed)
        with atomic_write(file) as stream:
            np.savez(stream, **trained_part(model))
    model.classes = case.names
    trained: nn.Module = model.to(precision()).requires_grad_(False).eval()
    return trained


def training_inputs(case: Case, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of the last layer for the training images with the mark, and classes."""
    plain = training_images(case.dataset, case.seed, case.n_train)
    more = "" if case.n_train == TRAIN else f"-{case.n_train}"
    file = work / f"last-inputs-{case.dataset}-{case.seed}{more}.npy"
    if not file.exists():
        with atomic_write(file) as stream:
            np.save(stream, last_inputs(plain.images))
    inputs = np.load(file)
    if case.twin not in ("clean", "untrained"):
        marked = marked_at_rate(plain, case, case.seed + TRAIN_SEED)
        rows = np.flatnonzero(marked.is_marked)
        inputs[rows] = last_inputs(marked.images[rows])
    return inputs, plain.labels


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-marks-in-models")
    parser.add_argument("--results", type=Path, default=RESULTS, help="one file per case")
    parser.add_argument("--part", default="0/1", help="index and number of processes: 0/2, 1/2")
    parser.add_argument("--only", default="", help="only result files that match this expression")
    options = parser.parse_args()
    for folder in (options.work, options.results):
        folder.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    for number, case in enumerate(cases()):
        path = options.results / case.file
        if number % parts != part or path.exists() or not re.search(options.only, case.file):
            continue
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
