"""Planted shortcuts, found or not: ``python -m benchmarks.bench_spurious``.

A linear head on the frozen embedded backbone learns 13 classes where a cue of `planted_cues` is on
a part (`rate`) of one class. `discover_spurious` searches training images; what it ranks first is
held against the truth on fresh images of the same kind. Twins bear no cue, or bear it on half of
all classes; a third control looks at images that bear it with a model that was trained without.

Every search is a file in ``--results``, so that a run that was stopped goes on, and several
processes may share the folder (``--part 0/2``); what its companions go on from is in ``--work``.
An empty folder for ``--results`` searches all anew.
"""

from __future__ import annotations

import argparse
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

from semattn.cli.parsing import read_precision
from semattn.grid import PatchGrid
from semattn.images import Preprocessing
from semattn.spurious import Discovery, SpuriousCue, discover_spurious, save_discovery
from semattn.spurious.feature_extractor import Looker
from semattn.utils.atomic_files import whole, write_text
from semattn.zoo import cache_dir

from .bench_prompting import load
from .objects_on_scenes import NAMES
from .objects_on_scenes.fetch import default_root
from .planted_cues import KINDS, Planted, PlantedCue
from .prompting_arms import normalised

TRAIN, SEARCH, FRESH = 780, 390, 130
RESULTS = Path(__file__).parent / "results"
SEARCHES = RESULTS / "spurious"
BATCH = 32
SEEDS = (16, 17, 18)  # those below are development
BIASED = (4, 1, 12, 8, 7, 10, 3, 6, 0)  # by seed: flower, bird, vehicle, mushroom, mammal, …
RATES = (0.95, 0.8, 0.5)
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)
SEEN = 0.05  # of a patch's pixels: it bears the cue
OVERLAP = 0.3  # intersection over union with the truth, on images that bear it, to be found
OWN = Preprocessing((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Case:
    """One search. `trained` is the twin that the model learned from, `twin` the one looked at."""

    kind: str
    seed: int
    rate: float
    twin: str = ""
    trained: str = ""

    @property
    def on(self) -> int:
        """The class that bears the cue."""
        return BIASED[self.seed % len(BIASED)]

    @property
    def file(self) -> str:
        """What its result is called."""
        twin = f"-{self.twin or 'planted'}-{self.trained or 'planted'}"
        return f"{self.kind.replace(' ', '_')}-{self.seed}-{self.rate:g}{twin}.json"

    def data(self, count: int, *, split: str = "train", seed: int = 0, **more: Any) -> PlantedCue:
        """Images of a split."""
        options = {"twin": self.twin, "rate": self.rate} | more
        return PlantedCue(
            default_root(), self.kind, self.on, split=split, count=count,
            seed=200 + 10 * self.seed + seed, **options,
        )  # fmt: skip


def cases(seeds: tuple[int, ...] = SEEDS) -> Iterator[Case]:
    """All of them, what decides first."""
    for seed in seeds:
        yield from (Case(kind, seed, 0.95) for kind in KINDS)
        yield Case(KINDS[0], seed, 0.95, "clean", "clean")
    for seed in seeds:
        yield from (Case(kind, seed, 0.95, "everywhere", "everywhere") for kind in KINDS)
    for rate in RATES[1:]:
        yield from (Case(kind, seed, rate) for seed in seeds for kind in KINDS)
    yield from (Case(kind, seeds[0], 0.95, "", "clean") for kind in KINDS)


@lru_cache(maxsize=1)
def precision() -> torch.dtype:
    """Half precision where the processor has instructions for it."""
    made: torch.dtype = getattr(torch, read_precision("auto", "cpu"))
    return made


@lru_cache(maxsize=1)
def backbone() -> nn.Module:
    """The frozen backbone."""
    return load(precision())


@torch.inference_mode()
def class_features(images: np.ndarray) -> np.ndarray:
    """Class features (n, D)."""
    model = backbone()
    parts = [normalised(model, images[at : at + BATCH]) for at in range(0, len(images), BATCH)]
    return torch.cat([model.forward_head(model.forward_features(one), pre_logits=True).float()
                      for one in parts]).numpy()  # fmt: skip


def model_of(case: Case, work: Path) -> nn.Module:
    """The backbone with the head of a case, which is trained where it is not there yet."""
    name = Case(case.kind, case.seed, case.rate, case.trained, case.trained).file
    file = work / f"head-{name}".replace(".json", ".npz")
    if not file.exists():
        data = list(_all(case.data(TRAIN, twin=case.trained)))
        labels = np.array([one.label for one in data])
        head = LogisticRegression(C=0.1, max_iter=5000)
        head.fit(class_features(np.stack([one.image for one in data])), labels)
        with whole(file) as stream:
            np.savez(stream, weight=head.coef_, bias=head.intercept_)
    model = load(torch.float32)
    model.head = nn.Linear(384, len(NAMES))
    with np.load(file) as kept:
        model.head.weight.data = torch.from_numpy(kept["weight"]).float()
        model.head.bias.data = torch.from_numpy(kept["bias"]).float()
    model.classes = NAMES
    return model.to(precision()).requires_grad_(False).eval()


def _all(data: PlantedCue) -> Iterator[Planted]:
    return (data[index] for index in range(len(data)))


def patches_of(masks: np.ndarray) -> np.ndarray:
    """The part of each patch that masks (n, H, W) cover: (n, P)."""
    size = masks.shape[-1] // 16
    return masks.reshape(len(masks), 16, size, 16, size).mean(axis=(2, 4)).reshape(len(masks), -1)


@dataclass(frozen=True, eq=False)
class Fresh:
    """Images that no search saw: inputs, classes, and which patches bear the cue (n, P)."""

    images: np.ndarray
    inputs: Tensor
    labels: np.ndarray
    planted: np.ndarray


def fresh(case: Case, model: nn.Module) -> Fresh:
    """A fifth of the class that bears the cue, the others alike."""
    chosen = _fresh(case)
    images = np.stack([one.image for one in chosen])
    labels = np.array([one.label for one in chosen])
    return Fresh(images, normalised(model, images), labels, _bearing(chosen))


def fresh_planted(case: Case) -> np.ndarray:
    """Which patches (n, P) of the fresh images bear the cue."""
    return _bearing(_fresh(case))


def _fresh(case: Case) -> list[Planted]:
    data = case.data(len(NAMES) * FRESH // 5, seed=5)
    rows = [i for i in range(len(data)) if i % len(NAMES) == case.on]
    rows += [i for i in range(len(data)) if i % len(NAMES) != case.on][: FRESH - len(rows)]
    return [data[i] for i in rows]


def _bearing(chosen: list[Planted]) -> np.ndarray:
    made: np.ndarray = patches_of(np.stack([one.cue for one in chosen])) > SEEN
    return made


def features(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """What a cue's detector looks at: (n, P, E)."""
    looker = Looker(model, OWN, "sift", 0)
    parts = [looker.features(inputs[at : at + BATCH]) for at in range(0, len(inputs), BATCH)]
    return torch.cat(parts).numpy()


def judged(
    case: Case, cue: SpuriousCue, on: Fresh, scores: np.ndarray, given: list[Planted]
) -> dict[str, Any]:
    """How well a cue is the planted one, by the scores (n, P) that it gives fresh images."""
    bears = on.planted.any(axis=1)
    mine = on.labels == case.on
    both = (scores > 0.5) & on.planted
    either = (scores > 0.5) | on.planted
    overlap = (both.sum(axis=1) / either.sum(axis=1).clip(min=1))[bears]
    first = [int(one.name.split()[-1]) for one in cue.examples[:10]]
    pools = {"ap": np.ones(len(mine), bool), "ap_class": mine}
    return {
        "class_right": cue.target == case.on,
        "iou": float(overlap.mean()),
        "precision10": float(np.mean([given[i].bears for i in first])),
        **{name: float(average_precision_score(on.planted[rows].ravel(), scores[rows].ravel()))
           for name, rows in pools.items()},
    }  # fmt: skip


def run(case: Case, work: Path) -> dict[str, Any]:
    """One search, and what it is worth."""
    model = model_of(case, work)
    given = list(_all(case.data(SEARCH)))
    pairs = [(one.image, one.label) for one in given]
    search = work / f"search-{case.file}"
    found: Discovery = discover_spurious(
        model, pairs, names=NAMES, preprocessing=OWN, batch_size=BATCH, seed=case.seed,
        folder=search,
    )  # fmt: skip
    save_discovery(found, discovery_file(case, work))
    shutil.rmtree(search)
    made: dict[str, Any] = {
        "case": asdict(case) | {"on": case.on}, "precision": str(precision()),
        "confirmed": len(found.confirmed), "tried": len(found.cues), "judged": found.candidates,
        "accuracy": found.accuracy,
        "classes": [[one.target, one.score] for one in found.classes],
        "cues": [
            {name: value for name, value in one.summary().items()
             if name not in ("place", "examples")}
            for one in found.cues
        ],
    }  # fmt: skip
    if case.twin != "clean":
        on = fresh(case, model)
        seen = features(model, on.inputs)
        scores = [one.detector(seen) for one in found.cues[:5]]
        with whole(scores_file(case, work)) as stream:
            np.savez_compressed(stream, first=scores[0] if scores else np.zeros(on.planted.shape))
        made["top"] = [
            judged(case, cue, on, one, given)
            for cue, one in zip(found.cues[:5], scores, strict=True)
        ]
    return made


def discovery_file(case: Case, work: Path) -> Path:
    """Where the discovery of a search is."""
    return work / case.file.replace(".json", ".npz")


def scores_file(case: Case, work: Path) -> Path:
    """Where the scores (n, P) are that the first cue gives fresh images."""
    return work / f"scores-{case.file}".replace(".json", ".npz")


def keep(file: Path, made: dict[str, Any]) -> None:
    """Write a result: whole, or not at all."""
    write_text(file, json.dumps(made) + "\n")


def remaining(work: Path, start: str) -> Iterator[tuple[Case, Path]]:
    """Searches of the first rate that have no result called `start` yet, and where it goes."""
    for case in (Case(kind, seed, RATES[0]) for seed in SEEDS for kind in KINDS):
        file = work / f"{start}{case.file}"
        if not file.exists():
            yield case, file


def arguments(about: str | None) -> argparse.ArgumentParser:
    """A parser that knows where results are kept, for what the first line of a docstring says."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-spurious")
    parser.add_argument("--results", type=Path, default=SEARCHES, help="a file for each search")
    return parser


def main() -> None:
    """Run what is not done yet; `spurious_table` renders it."""
    parser = arguments(__doc__)
    parser.add_argument("--part", default="0/1", help="which of several processes: 0/2, 1/2")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    part, parts = map(int, options.part.split("/"))
    for number, case in enumerate(cases()):
        file = options.results / case.file
        if number % parts != part or file.exists():
            continue
        made = run(case, options.work)
        keep(file, made)
        best = made.get("top") or [{}]
        print(case.file, "confirmed", made["confirmed"], "of", made["tried"], best[0], flush=True)


if __name__ == "__main__":
    main()
