"""Explainers and peers on objects whose masks are known: ``python -m benchmarks.bench_explain``.

    python -m benchmarks.bench_explain [--split validation] [--images 100] [--methods …] [--full]

The embedded model on compositions of `objects_on_scenes`, the true class explained. The test splits
("test", "unseen-objects") are opened once, with everything frozen; all that is chosen is chosen on
"validation". What is done of a run is kept in ``--work``, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import semattn
from semattn import evaluation
from semattn.images import Preprocessing
from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.fetch import default_root

RESULTS = Path(__file__).parent / "results"
OURS = "sift-patch-interrelation"
ROWS = (
    OURS, f"{OURS}:uniform", f"{OURS}:sobel", f"{OURS}:shifted",
    f"{OURS}:growth=0", f"{OURS}:uniform:growth=0",
    "transition-attention", "generic-relevance", "gradient-rollout", "attention-rollout",
    "raw-attention", "legrad", "grad-cam", "input-x-gradient",
    "attention-rollout+grown", "legrad+grown", "grad-cam+grown", "keypoint-density+grown",
    "fast-vit-rollout/rollout",
    "pytorch-grad-cam/GradCAM", "pytorch-grad-cam/HiResCAM", "pytorch-grad-cam/EigenCAM",
    "captum/IntegratedGradients", "captum/SmoothGrad", "captum/GradientShap",
    "keypoint-density", "keypoint-density:sobel", "keypoint-density:canny",
    "keypoint-density:shifted", "center", "random",
)  # fmt: skip
VARIANTS = (
    OURS,
    *(f"{OURS}:growth={one}" for one in (0, 0.5, 0.7, 0.8, 0.95)),
    *(f"{OURS}:{one}" for one in ("uniform", "size", "distinct", "sobel", "center", "shifted")),
    *(f"{OURS}:{one}:growth=0" for one in ("uniform", "size", "sobel", "shifted")),
    f"{OURS}:queries=all", f"{OURS}:queries=all:head_alignment=False",
    f"{OURS}:layers=all", f"{OURS}:layers=[8,9,10,11]", f"{OURS}:layers=[10,11]",
)  # fmt: skip
GROWN = tuple(f"{one}+grown" for one in ("generic-relevance", "raw-attention", "gradient-rollout"))
PAIRED = ("ap", "pointing", "insertion-deletion")
SLOW = ("captum/Occlusion", "captum/KernelShap", "pytorch-grad-cam/ScoreCAM")
RELEVANCE = ("hilrp/AttnLRP", "hilrp/CP-LRP")


@dataclass(frozen=True)
class Item:
    """One composition, as `semattn.evaluation` takes it."""

    name: str
    image: Image.Image
    mask: np.ndarray
    label: int


class Masked:
    """The first images of a split as data with masks."""

    def __init__(self, split: str, count: int, seed: int) -> None:
        self.own = ObjectsOnScenes(default_root(), split, count=count, seed=seed)
        self.classes = self.own.classes
        self.about = {"name": "objects on scenes", "split": split, "count": count, "seed": seed}

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> Item:
        one = self.own[index]
        name = f"{index}: {Path(one.object).stem} on {one.scene}"
        return Item(name, Image.fromarray(one.image), one.mask, one.label)


def result(found: evaluation.Results, made: evaluation.Table, caption: str) -> dict[str, Any]:
    """The table that the pages show."""

    def said(one: Any, form: str = ".3f") -> str | None:
        if not one.count:
            return None
        return f"{one.mean:{form}} [{one.low:{form}}, {one.high:{form}}]"

    rows = []
    for name in made.methods:
        row: dict[str, Any] = {
            "method": name, "control": "control" if name in made.controls else "",
            "seconds": made.seconds[name], "mib": None, **{
                metric: said(made.estimates[name, metric]) for metric in made.metrics
            },
        }  # fmt: skip
        if np.isfinite(made.peak_mib[name]):
            row["mib"] = made.peak_mib[name]
        for metric in PAIRED:
            if name != OURS and metric in made.metrics:
                values = [found.values[:, found.methods.index(one), found.metrics.index(metric)]
                          for one in (OURS, name)]  # fmt: skip
                row[f"ours {metric}"] = said(evaluation.difference(*values), "+.3f")
        rows.append(row)
    titles = [{"key": one, "title": evaluation.measures[one].title} for one in made.metrics]
    return {
        "caption": caption,
        "columns": [
            {"key": "method", "title": "method"}, {"key": "control", "title": ""}, *titles,
            *({"key": f"ours {one}", "title": f"ours less it, {evaluation.measures[one].title}"}
              for one in PAIRED if one in made.metrics),
            {"key": "seconds", "title": "s a map", "format": ".3f"},
            {"key": "mib", "title": "MiB", "format": ".0f"},
        ],
        "rows": rows,
        "refused": found.refused,
        "manifest": found.manifest,
    }  # fmt: skip


def main() -> None:
    """Run, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", default="validation")
    parser.add_argument("--images", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=0, help="of the compositions (0)")
    parser.add_argument("--methods", help="by commas; all that are not slow if left out")
    parser.add_argument("--slow", action="store_true", help="the slow ones, and ours beside them")
    parser.add_argument("--lrp", action="store_true", help="hilrp's (docs); with --slow all")
    parser.add_argument("--grown", action="store_true", help="the best others, grown as ours is")
    parser.add_argument("--variants", action="store_true", help="our method's settings alone")
    parser.add_argument("--metrics", help="by commas; the core if left out")
    parser.add_argument("--full", action="store_true", help="all metrics, in place of the core")
    parser.add_argument("--refine", default="none", help="none, guided or superpixels")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--precision", default="bfloat16", help="of perturbed images (bfloat16)")
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-explain")
    options = parser.parse_args()
    rows = options.methods.split(",") if options.methods else list(ROWS)
    if options.slow:
        rows = [OURS, *SLOW]
    if options.grown:
        rows = [OURS, f"{OURS}:uniform", *GROWN]
    if options.variants:
        rows = list(VARIANTS)
    if options.lrp:
        rows = [*rows, *RELEVANCE] if options.slow else [OURS, RELEVANCE[0]]
    model = semattn.load()
    own = Preprocessing.of(model)
    setting = evaluation.Setting(
        steps=options.steps,
        precision=options.precision,
        black=tuple(-mean / std for mean, std in zip(own.mean, own.std, strict=True)),
    )
    metrics = list(evaluation.measures) if options.full else evaluation.core()
    if options.metrics:
        metrics = options.metrics.split(",")
    name = options.split.replace("-", "_")
    name += "_slow" * options.slow + "_variants" * options.variants
    name += "_grown" * options.grown + "_lrp" * (options.lrp and not options.slow)
    name += f"_{options.refine}" * (options.refine != "none")
    found = evaluation.evaluate(
        model, Masked(options.split, options.images, options.seed), rows, metrics, setting=setting,
        refine=options.refine, classes=model.classes,  # type: ignore[arg-type]
        folder=options.work / f"{name}-{options.images}-{options.seed}",
        progress=lambda done, total: print(f"{done} of {total}", flush=True),
    )  # fmt: skip
    made = evaluation.table(found)
    right = sum(bool(one) for one in found.right)
    caption = (
        f'Objects on scenes, split "{options.split}", {len(found.names)} images, the true class '
        f"explained (the model is right on {right}); refinement: {options.refine}; insertion and "
        f"deletion of patches in {options.steps} steps against the blurred image, in "
        f"{options.precision}. Means, and "
        "differences in pairs, with 95 % bootstrap intervals over images. Made by "
        "`python -m benchmarks.bench_explain`."
    )
    file = RESULTS / f"explain_{name}.json"
    write_text(file, json.dumps(result(found, made, caption), indent=1, default=str) + "\n")
    print(evaluation.markdown(made))


if __name__ == "__main__":
    main()
