"""Recall of planted shortcuts: ``python -m benchmarks.studies.spurious.search``.

A linear head on the frozen embedded backbone learns 13 classes. A cue of `planted_cues` is on a
part (`rate`) of the images of one class. `discover_spurious` searches training images; its
top-ranked cue is compared with the ground truth on fresh images of the same kind. Controls (twins):
no cue at all, the cue on half of the images of every class, and images with the cue searched with a
model that was trained without it.

Every search has a file in ``--results``, so that an interrupted run resumes, and several processes
may share the folder (``--part 0/2``). Data for the companion benchmarks is stored in ``--work``. An
empty folder for ``--results`` repeats all searches.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from semattn.cli.parsing import read_precision
from semattn.grid import PatchGrid
from semattn.images import Preprocessing
from semattn.spurious import Discovery, SpuriousCue, discover_spurious, save_discovery
from semattn.spurious.feature_extractor import FeatureExtractor
from semattn.utils.atomic_files import atomic_write, write_text
from semattn.utils.text import to_json_value

from ...datasets.objects_on_scenes import NAMES
from ...datasets.objects_on_scenes.fetch import default_root
from ...datasets.planted_cues import KINDS, Planted, PlantedCue
from ..prompting.arms import normalise
from ..prompting.gain import load
from .stored_cases import arguments, pending

TRAIN, SEARCH, FRESH = 780, 390, 130
SEARCHES, WORK = RESULTS_DIR / "spurious", "bench-spurious"
BATCH = 32
SEEDS = (16, 17, 18)  # smaller seeds are development seeds
TWIN_SEEDS = (19, 20, 21)  # of controls searched with all of `TESTS`, opened after these were fixed
TESTS = ("frequency", "removal", "transplant", "specificity")  # that a confirmed cue passes
VERSION = "marks drawn"  # of the search, after its last change that concerns these cues
BIASED_CLASSES = (
    4,
    1,
    12,
    8,
    7,
    10,
    3,
    6,
    0,
)  # by seed, repeated: flower, bird, vehicle, mushroom, mammal, …
RATES = (0.95, 0.8, 0.5)
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)
MIN_COVERAGE = 0.05  # part of a patch's pixels from which on the patch has the cue
OVERLAP = 0.3  # IoU with the planted cue, on images that have it, from which on it is found
PREPROCESSING = Preprocessing((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """One search: `trained` is the twin that the model learned from, `twin` the searched one."""

    kind: str
    seed: int
    rate: float
    twin: str = ""
    trained: str = ""

    @property
    def planted_class(self) -> int:
        """Class that has the cue."""
        return BIASED_CLASSES[self.seed % len(BIASED_CLASSES)]

    @property
    def file(self) -> str:
        """File name of the result."""
        twin = f"-{self.twin or 'planted'}-{self.trained or 'planted'}"
        return f"{self.kind.replace(' ', '_')}-{self.seed}-{self.rate:g}{twin}.json"

    def data(self, count: int, *, split: str = "train", seed: int = 0, **more: Any) -> PlantedCue:
        """Return images of a split."""
        options = {"twin": self.twin, "rate": self.rate} | more
        return PlantedCue(
            default_root(), self.kind, self.planted_class, split=split, count=count,
            seed=200 + 10 * self.seed + seed, **options,
        )  # fmt: skip


def cases(seeds: tuple[int, ...] = SEEDS) -> Iterator[Case]:
    """Yield all cases, the decisive ones first."""
    for seed in seeds:
        yield from (Case(kind, seed, 0.95) for kind in KINDS)
        yield Case(KINDS[0], seed, 0.95, "clean", "clean")
    for seed in seeds:
        yield from (Case(kind, seed, 0.95, "everywhere", "everywhere") for kind in KINDS)
    for rate in RATES[1:]:
        yield from (Case(kind, seed, rate) for seed in seeds for kind in KINDS)
    yield from (Case(kind, seeds[0], 0.95, "", "clean") for kind in KINDS)


def twin_cases(seeds: tuple[int, ...] = TWIN_SEEDS) -> Iterator[Case]:
    """Yield the controls that were repeated with other seeds, the decisive ones first."""
    yield from (Case("texture frame", seed, 0.95, "everywhere", "everywhere") for seed in seeds)
    yield from (Case(kind, seeds[0], 0.95, "", "clean") for kind in KINDS)
    yield from (Case(KINDS[0], seed, 0.95, "clean", "clean") for seed in seeds)
    yield from (Case(kind, seed, 0.95, "", "clean") for seed in seeds[1:] for kind in KINDS)
    for seed in seeds:
        yield from (
            Case(kind, seed, 0.95, "everywhere", "everywhere")
            for kind in KINDS
            if kind != "texture frame"
        )


@lru_cache(maxsize=1)
def precision() -> torch.dtype:
    """Return half precision if the CPU has instructions for it, else float32."""
    dtype: torch.dtype = getattr(torch, read_precision("auto", "cpu"))
    return dtype


@lru_cache(maxsize=1)
def backbone() -> nn.Module:
    """Return the frozen backbone."""
    return load(precision())


@torch.inference_mode()
def class_features(images: np.ndarray) -> np.ndarray:
    """Return class features (n, D)."""
    model = backbone()
    parts = [
        normalise(model, images[start : start + BATCH]) for start in range(0, len(images), BATCH)
    ]
    return torch.cat([model.forward_head(model.forward_features(part), pre_logits=True).float()
                      for part in parts]).numpy()  # fmt: skip


def load_model(case: Case, work: Path) -> nn.Module:
    """Return the backbone with the head of a case; train the head if it is not stored."""
    file_name = Case(case.kind, case.seed, case.rate, case.trained, case.trained).file
    path = work / f"head-{file_name}".replace(".json", ".npz")
    if not path.exists():
        data = list(items_of(case.data(TRAIN, twin=case.trained)))
        labels = np.array([item.label for item in data])
        head = LogisticRegression(C=0.1, max_iter=5000)
        head.fit(class_features(np.stack([item.image for item in data])), labels)
        with atomic_write(path) as stream:
            np.savez(stream, weight=head.coef_, bias=head.intercept_)
    model = load(torch.float32)
    model.head = nn.Linear(384, len(NAMES))
    with np.load(path) as head_file:
        model.head.weight.data = torch.from_numpy(head_file["weight"]).float()
        model.head.bias.data = torch.from_numpy(head_file["bias"]).float()
    model.classes = NAMES
    return model.to(precision()).requires_grad_(False).eval()


def items_of(data: PlantedCue) -> Iterator[Planted]:
    """Yield the images of a data set."""
    return (data[index] for index in range(len(data)))


def patches_of(masks: np.ndarray) -> np.ndarray:
    """Return the part of each patch that masks (n, H, W) cover: (n, P)."""
    size = masks.shape[-1] // 16
    return masks.reshape(len(masks), 16, size, 16, size).mean(axis=(2, 4)).reshape(len(masks), -1)


@dataclass(frozen=True, eq=False)
class Fresh:
    """Images that no search used: inputs, classes, and which patches have the cue (n, P)."""

    images: np.ndarray
    inputs: Tensor
    labels: np.ndarray
    planted: np.ndarray


def load_fresh(case: Case, model: nn.Module) -> Fresh:
    """Return fresh images: one fifth of the class with the cue, the rest of the other classes."""
    items = fresh_items(case)
    images = np.stack([item.image for item in items])
    labels = np.array([item.label for item in items])
    return Fresh(images, normalise(model, images), labels, patches_with_cue(items))


def fresh_planted(case: Case) -> np.ndarray:
    """Return which patches (n, P) of the fresh images have the cue."""
    return patches_with_cue(fresh_items(case))


def fresh_items(case: Case) -> list[Planted]:
    """Return the fresh images of a case."""
    data = case.data(len(NAMES) * FRESH // 5, seed=5)
    rows = [i for i in range(len(data)) if i % len(NAMES) == case.planted_class]
    rows += [i for i in range(len(data)) if i % len(NAMES) != case.planted_class][
        : FRESH - len(rows)
    ]
    return [data[i] for i in rows]


def patches_with_cue(items: list[Planted]) -> np.ndarray:
    """Return which patches (n, P) of some images have the cue."""
    has_cue: np.ndarray = patches_of(np.stack([item.cue for item in items])) > MIN_COVERAGE
    return has_cue


def features(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """Return the features that a cue's detector uses: (n, P, E)."""
    extractor = FeatureExtractor(model, PREPROCESSING, "sift", 0)
    parts = [
        extractor.features_of(inputs[start : start + BATCH])
        for start in range(0, len(inputs), BATCH)
    ]
    return torch.cat(parts).numpy()


def cue_scores(cue: SpuriousCue, fresh_features: np.ndarray, inputs: Tensor) -> np.ndarray:
    """Return the scores (n, P) that a cue gives the patches of images with these features.

    A recurring mark has no detector of patch features: its patches are those of its places.
    """
    if cue.detector is None:
        return cue.matches(inputs).numpy()
    return cue.detector(fresh_features)


def evaluate_cue(
    case: Case, cue: SpuriousCue, fresh: Fresh, scores: np.ndarray, searched: list[Planted]
) -> dict[str, Any]:
    """Compare a cue with the planted one by the scores (n, P) that it gives fresh images."""
    has_cue = fresh.planted.any(axis=1)
    in_class = fresh.labels == case.planted_class
    intersection = (scores > 0.5) & fresh.planted
    union = (scores > 0.5) | fresh.planted
    overlap = (intersection.sum(axis=1) / union.sum(axis=1).clip(min=1))[has_cue]
    example_indices = [int(example.name.split()[-1]) for example in cue.examples[:10]]
    pools = {"ap": np.ones(len(in_class), bool), "ap_class": in_class}
    return {
        "class_right": cue.target == case.planted_class,
        "iou": float(overlap.mean()),
        "precision10": float(np.mean([searched[i].has_cue for i in example_indices])),
        **{name: float(average_precision_score(fresh.planted[rows].ravel(), scores[rows].ravel()))
           for name, rows in pools.items()},
    }  # fmt: skip


def run(case: Case, work: Path) -> dict[str, Any]:
    """Run one search and evaluate its cues."""
    model = load_model(case, work)
    searched = list(items_of(case.data(SEARCH)))
    pairs = [(item.image, item.label) for item in searched]
    search = work / f"search-{case.file}"
    discovery: Discovery = discover_spurious(
        model, pairs, class_names=NAMES, preprocessing=PREPROCESSING, batch_size=BATCH,
        seed=case.seed, cache_dir=search,
    )  # fmt: skip
    save_discovery(discovery, discovery_file(case, work))
    shutil.rmtree(search)
    result: dict[str, Any] = {
        "case": asdict(case) | {"on": case.planted_class}, "precision": str(precision()),
        "confirmed": len(discovery.confirmed), "tried": len(discovery.cues),
        "judged": discovery.candidates, "tests": TESTS, "search": VERSION,
        "accuracy": discovery.accuracy,
        "classes": [[rank.target, rank.score] for rank in discovery.classes],
        "cues": [
            {name: value for name, value in cue.summary().items()
             if name not in ("place", "examples")}
            for cue in discovery.cues
        ],
    }  # fmt: skip
    if not discovery.cues:
        result["top"] = []
        with atomic_write(scores_file(case, work)) as stream:
            np.savez_compressed(stream, first=np.zeros(fresh_planted(case).shape))
    elif case.twin != "clean":
        fresh = load_fresh(case, model)
        patch_features = features(model, fresh.inputs)
        scores = [cue_scores(cue, patch_features, fresh.inputs) for cue in discovery.cues[:5]]
        with atomic_write(scores_file(case, work)) as stream:
            np.savez_compressed(stream, first=scores[0])
        result["top"] = [
            evaluate_cue(case, cue, fresh, cue_scores, searched)
            for cue, cue_scores in zip(discovery.cues[:5], scores, strict=True)
        ]
    return result


def discovery_file(case: Case, work: Path) -> Path:
    """Return the path of the discovery of a search."""
    return work / case.file.replace(".json", ".npz")


def scores_file(case: Case, work: Path) -> Path:
    """Return the path of the scores (n, P) that the first cue gives fresh images."""
    return work / f"scores-{case.file}".replace(".json", ".npz")


def keep(path: Path, result: dict[str, Any]) -> None:
    """Write a result atomically; values that are not known are null."""
    write_text(path, json.dumps(to_json_value(result), allow_nan=False) + "\n")


def remaining(work: Path, prefix: str) -> Iterator[tuple[Case, Path]]:
    """Yield searches of the first rate without a result called `prefix…`, and its path."""
    for case in (Case(kind, seed, RATES[0]) for seed in SEEDS for kind in KINDS):
        path = work / f"{prefix}{case.file}"
        if not path.exists():
            yield case, path


def main() -> None:
    """Run the searches that have no result yet; `spurious_table` renders them."""
    options = arguments(__doc__, SEARCHES, WORK).parse_args()
    for case, path in pending((*cases(), *twin_cases()), options):
        result = run(case, options.work)
        keep(path, result)
        top = result.get("top") or [{}]
        print(
            case.file, "confirmed", result["confirmed"], "of", result["tried"], top[0], flush=True
        )


if __name__ == "__main__":
    main()
