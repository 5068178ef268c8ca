"""Images with a mark, and models that are trained on them: the cases of `marks_in_models`.

The last layer of the embedded backbone and a head (`last_block`) are trained on images with a mark
on a part (`rate`) of one class. A fixed mark has the same pose in every image. Twins: no mark, a
mark on half of every class, a mark that the model was not trained with, permuted labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from torch import nn

from semattn.utils.atomic_files import atomic_write

from ...datasets import cifar10
from ...datasets.marked_sets import (
    DATASETS,
    PER_CLASS,
    MarkedCase,
    MarkedSet,
    choose_marked,
    draw_mark_of,
    enlarged,
    load_clean,
    with_marks,
)
from ...datasets.moving_marks import MARKS, Pose, draw_mark
from ...datasets.objects_on_scenes import NAMES, ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from ...datasets.planted_cues import changed_pixels, watermark
from .last_block import last_inputs, train_last_block, trained_part, with_trained_part
from .search import precision

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
TRAIN_SEED, TEST_SEED = 500, 900  # added to the seed for training and test images
CIFAR_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
TWINS = ("clean", "everywhere", "untrained", "permuted")


@dataclass(frozen=True)
class Case(MarkedCase):
    """One model and one search."""

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
            yield from twins(partial(Case, dataset, seed=seed))
        yield from (Case(DATASETS[0], kind, RATES[0], seed, is_fixed=True) for kind in MARKS)
    for seed in MORE_SEEDS:
        more = partial(Case, DATASETS[0], seed=seed, n_train=MORE_TRAIN)
        yield from (more(kind, rate) for rate in RATES for kind in MARKS)
        yield from (more(kind, RATES[0], is_fixed=True) for kind in MORE_FIXED)
        yield from twins(more)


def twins(case: Callable[..., Case]) -> Iterator[Case]:
    """Yield the twins of a set and a seed, each with another mark."""
    for twin, kind in zip(TWINS, MARKS, strict=True):
        yield case(kind, RATES[0], twin=twin)


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
