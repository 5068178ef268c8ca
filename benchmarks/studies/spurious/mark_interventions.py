"""How a mark is removed and transplanted: its region, or the mark alone.

    python -m benchmarks.studies.spurious.mark_interventions [--part 0/2]

Development data. A mark is drawn on half of the images of every class, and found by
`find_recurring_marks` as in a search. For some classes, linear heads on the frozen embedded
backbone are trained with the mark on a part (`rate`) of the class, and once without it. The
interventions of `discover_spurious` are run with these heads on the images of the class that show
the mark, in several ways:

- transplant: its region is pasted; its matte (`semattn.keypoints.mattes`) is drawn; the true mark
  is drawn,
- removal: its region is inpainted; the pixels of its matte are; the image without it is restored.

Every case has a file in ``--results``, so that an interrupted run resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks import RESULTS_DIR
from semattn.keypoints.local_features import fine_sift, local_features
from semattn.keypoints.mattes import Matte, estimate_matte
from semattn.spurious.interventions import MIN_LOG_SCORE
from semattn.spurious.marks.interventions import N_RECEIVERS, shifted_masks
from semattn.spurious.marks.masks import erase_pixels, region_masks
from semattn.spurious.marks.recurring import RecurringMark, find_recurring_marks
from semattn.spurious.significance import class_effect, effect
from semattn.targets import OutputMeaning

from ...datasets.marked_sets import DATASETS, MarkedSet, choose_marked, hull, load_clean
from ...datasets.moving_marks import MARKS
from .mark_metrics import OVERLAP, region_iou
from .marked_models import (
    IMAGENET_W,
    Case,
    compositions,
    draw_mark_of_case,
    mark,
    training_images,
)
from .search import class_features, keep
from .stored_cases import arguments, pending

RESULTS = RESULTS_DIR / "mark_interventions"
SEEDS = (0, 1)  # development seeds
HEAD_RATES = (0.2, 0.5, 0.8)  # part of the class that the head sees with the mark
SHOWN_RATE = 0.5  # part of each class that shows it among the images of the interventions
PER_CLASS = 30  # images of a class of compositions
CONTROL_ROUNDS = 2
CLASS_STEP = 2  # every second class


def cases() -> Iterator[Case]:
    """Yield the cases, the decisive ones first."""
    for seed in SEEDS:
        yield Case("compositions", IMAGENET_W, SHOWN_RATE, seed, is_fixed=True)
        for dataset in DATASETS:
            yield from (Case(dataset, kind, SHOWN_RATE, seed) for kind in MARKS)


@lru_cache(maxsize=1)
def images_of(dataset: str, seed: int) -> MarkedSet:
    """Return the images of the interventions, without marks."""
    if dataset == "CIFAR-10":
        return load_clean(dataset, seed)
    return compositions("train", PER_CLASS * 13, seed)


def found_mark(images: MarkedSet) -> RecurringMark:
    """Return the mark that is found in the most images that show the planted one, at its place."""
    features = local_features([fine_sift(image) for image in images.images])
    sizes = np.tile(images.images.shape[1:3], (len(images.labels), 1))
    marks = find_recurring_marks(features, images.labels, sizes, alpha=0.05).marks

    def count(candidate: RecurringMark) -> int:
        return sum(
            region_iou(regions, hull(images.masks[row])) > OVERLAP
            for row, regions in candidate.regions.items()
        )

    return max(marks, key=count)


def run(case: Case) -> dict[str, Any]:
    """Return the p-values of each way of intervening, by rate of the head and class."""
    clean = images_of(case.dataset, case.seed)
    n_classes = len(case.names)
    rates = dict.fromkeys(range(n_classes), SHOWN_RATE)
    images = mark(clean, case, choose_marked(clean.labels.tolist(), rates, case.seed), case.seed)
    found = found_mark(images)
    training = training_images(case.dataset, case.seed)
    everywhere = mark(training, case, np.ones(len(training.labels), bool), case.seed)
    without, with_mark = class_features(training.images), class_features(everywhere.images)
    rows: list[dict[str, Any]] = []
    for target in range(0, n_classes, CLASS_STEP):
        features = intervene(case, clean, images, found, target)
        heads = {0.0: _head(without, training.labels)}
        for rate in HEAD_RATES:
            shown = choose_marked(training.labels.tolist(), {target: rate}, case.seed)
            inputs = np.where(shown[:, None], with_mark, without)
            heads[rate] = _head(inputs, training.labels)
        rows += [
            {"target": target, "rate": rate, **p_values(head, features, target)}
            for rate, head in heads.items()
        ]
        print(case.file, "class", target, flush=True)
    return {"case": asdict(case), "rows": rows}


def intervene(
    case: Case, clean: MarkedSet, images: MarkedSet, found: RecurringMark, target: int
) -> dict[str, Any]:
    """Return the class features of images before and after each intervention on one class."""
    rng = np.random.default_rng((case.seed, target))
    size = images.images.shape[1:3]
    rows = np.array([row for row in found.regions if images.labels[row] == target])
    masks = region_masks([found.regions[row] for row in rows], size)
    regions = [found.regions[row][0] for row in rows]
    matte = estimate_matte(
        list(images.images[rows]), [region.transform for region in regions], found.template.outline
    )
    others = np.flatnonzero((images.labels != target) & ~images.is_marked)
    receivers = rng.permutation(others)[:N_RECEIVERS]
    source = np.arange(len(receivers)) % len(rows)
    pasted = np.where(
        masks[source][..., None], images.images[rows[source]], images.images[receivers]
    )
    true = [
        draw_mark_of_case(int(rows[number]), images.images[receiver], case, case.seed)[0]
        for number, receiver in zip(source, receivers, strict=True)
    ]
    strokes = masks if matte is None else _strokes(matte, regions, size)
    pixels, none = images.images[rows], np.zeros_like(masks)
    features: dict[str, Any] = {
        "receivers": images.labels[receivers], "count": len(rows), "matte": matte is not None,
        "inpainted": class_features(erase_pixels(images.images[receivers], masks[source])),
        "as it is": class_features(images.images[receivers]),
        "region pasted": class_features(pasted),
        "true mark drawn": class_features(np.stack(true)),
        "before": class_features(pixels),
        "restored": class_features(clean.images[rows]),
    }  # fmt: skip
    if matte is not None:
        drawn = [
            matte.draw(images.images[receiver], regions[number].transform)
            for number, receiver in zip(source, receivers, strict=True)
        ]
        features["matte drawn"] = class_features(np.stack(drawn))
    for name, erased in (("region", masks), ("strokes", strokes)):
        features[f"{name} inpainted"] = class_features(erase_pixels(pixels, erased))
        features[f"{name} controls"] = [
            class_features(erase_pixels(pixels, shifted_masks(erased, none, rng)))
            for _ in range(CONTROL_ROUNDS)
        ]
    return features


def p_values(head: LogisticRegression, features: dict[str, Any], target: int) -> dict[str, Any]:
    """Return the p-values of each intervention with one head."""

    def answers(of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = torch.from_numpy(head.decision_function(of))
        classes = torch.full((len(logits),), target)
        scores = logits.log_softmax(dim=-1).clamp(min=MIN_LOG_SCORE)
        return OutputMeaning().log_odds(logits, classes).numpy(), scores.numpy()

    result: dict[str, Any] = {"count": features["count"], "matte": features["matte"]}
    receivers = features["receivers"]
    for name, control in (
        ("region pasted", "inpainted"), ("matte drawn", "as it is"),
        ("true mark drawn", "as it is"),
    ):  # fmt: skip
        if name not in features:
            continue
        (odds, scores), (odds_without, scores_without) = map(
            answers, (features[name], features[control])
        )
        by_class = scores - scores_without
        by_class[np.arange(len(receivers)), receivers] = np.nan
        found = class_effect(odds - odds_without, by_class, target)
        result[name] = {"mean": found.mean, "p": max(found.p, found.specificity)}
    before = answers(features["before"])[0]
    for name in ("region", "strokes"):
        after = answers(features[f"{name} inpainted"])[0]
        controls = np.mean([answers(of)[0] for of in features[f"{name} controls"]], axis=0)
        removal = effect(controls - after)
        result[f"{name} inpainted"] = {"mean": removal.mean, "p": removal.p}
    restored = effect(before - answers(features["restored"])[0])
    return result | {"restored": {"mean": restored.mean, "p": restored.p}}


def _strokes(matte: Matte, regions: list[Any], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels (n, H, W) that a mark changes."""
    black, white = (np.full((*size, 3), value, np.uint8) for value in (0, 255))
    return np.stack([
        (matte.draw(black, region.transform) > 25).any(axis=-1)
        | (matte.draw(white, region.transform) < 230).any(axis=-1)
        for region in regions
    ])  # fmt: skip


def _head(inputs: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=0.1, max_iter=5000).fit(inputs, labels)


def main() -> None:
    """Run the cases that have no result yet."""
    for case, path in pending(cases(), arguments(__doc__, RESULTS).parse_args()):
        keep(path, run(case))


if __name__ == "__main__":
    main()
