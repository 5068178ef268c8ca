"""Explainers and peers on objects with known masks.

    python -m benchmarks.studies.explain.methods [--split validation] [--images 100]
        [--methods …] [--full]

Explains the true class of compositions of `objects_on_scenes` with the embedded model. Parameters
are chosen on "validation"; the test splits ("test", "unseen-objects") are opened once, with all
parameters fixed. A run that was interrupted resumes from ``--work``.
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
from benchmarks import RESULTS_DIR
from semattn import evaluation
from semattn.images import Preprocessing
from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root

OURS = "sift-patch-interrelation"
METHODS = (
    OURS, f"{OURS}:uniform", f"{OURS}:sobel", f"{OURS}:shifted",
    f"{OURS}:affinity=0", f"{OURS}:uniform:affinity=0",
    "transition-attention", "generic-relevance", "gradient-rollout", "attention-rollout",
    "raw-attention", "legrad", "grad-cam", "input-x-gradient",
    "attention-rollout+refined", "legrad+refined", "grad-cam+refined", "keypoint-density+refined",
    "fast-vit-rollout/rollout",
    "pytorch-grad-cam/GradCAM", "pytorch-grad-cam/HiResCAM", "pytorch-grad-cam/EigenCAM",
    "captum/IntegratedGradients", "captum/SmoothGrad", "captum/GradientShap",
    "keypoint-density", "keypoint-density:sobel", "keypoint-density:canny",
    "keypoint-density:shifted", "center", "random",
)  # fmt: skip
VARIANTS = (
    OURS,
    *(f"{OURS}:affinity={strength}" for strength in (0, 0.5, 0.7, 0.8, 0.95)),
    *(f"{OURS}:{density}"
      for density in ("uniform", "size", "distinct", "sobel", "center", "shifted")),
    *(f"{OURS}:{density}:affinity=0" for density in ("uniform", "size", "sobel", "shifted")),
    f"{OURS}:queries=all", f"{OURS}:queries=all:head_alignment=False",
    f"{OURS}:layers=all", f"{OURS}:layers=[8,9,10,11]", f"{OURS}:layers=[10,11]",
)  # fmt: skip
REFINED = tuple(
    f"{method}+refined" for method in ("generic-relevance", "raw-attention", "gradient-rollout")
)
PAIRED = ("ap", "pointing", "insertion-deletion")
SLOW = ("captum/Occlusion", "captum/KernelShap", "pytorch-grad-cam/ScoreCAM")
LRP_METHODS = ("hilrp/AttnLRP", "hilrp/CP-LRP")


@dataclass(frozen=True)
class Item:
    """One composition as `semattn.evaluation` expects it."""

    name: str
    image: Image.Image
    mask: np.ndarray
    label: int


class MaskedCompositions:
    """Data set with masks: the first compositions of a split."""

    def __init__(self, split: str, count: int, seed: int) -> None:
        self.compositions = ObjectsOnScenes(default_root(), split, count=count, seed=seed)
        self.classes = self.compositions.classes
        self.about = {"name": "objects on scenes", "split": split, "count": count, "seed": seed}

    def __len__(self) -> int:
        return len(self.compositions)

    def __getitem__(self, index: int) -> Item:
        composition = self.compositions[index]
        name = f"{index}: {Path(composition.object).stem} on {composition.scene}"
        return Item(name, Image.fromarray(composition.image), composition.mask, composition.label)


def result(results: evaluation.Results, table: evaluation.Table, caption: str) -> dict[str, Any]:
    """Return the table that the pages show."""

    def format_estimate(estimate: Any, form: str = ".3f") -> str | None:
        if not estimate.count:
            return None
        return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"

    rows = []
    for name in table.methods:
        row: dict[str, Any] = {
            "method": name, "control": "control" if name in table.controls else "",
            "seconds": table.seconds[name], "mib": None, **{
                metric: format_estimate(table.estimates[name, metric]) for metric in table.metrics
            },
        }  # fmt: skip
        if np.isfinite(table.peak_mib[name]):
            row["mib"] = table.peak_mib[name]
        for metric in PAIRED:
            if name != OURS and metric in table.metrics:
                values = [results.values[:, results.methods.index(method),
                                         results.metrics.index(metric)]
                          for method in (OURS, name)]  # fmt: skip
                row[f"ours {metric}"] = format_estimate(evaluation.difference(*values), "+.3f")
        rows.append(row)
    titles = [
        {"key": metric, "title": evaluation.measures[metric].title} for metric in table.metrics
    ]
    return {
        "caption": caption,
        "columns": [
            {"key": "method", "title": "method"}, {"key": "control", "title": ""}, *titles,
            *({"key": f"ours {metric}",
               "title": f"ours − it, {evaluation.measures[metric].title}"}
              for metric in PAIRED if metric in table.metrics),
            {"key": "seconds", "title": "seconds per map", "format": ".3f"},
            {"key": "mib", "title": "MiB", "format": ".0f"},
        ],
        "rows": rows,
        "refused": results.refused,
        "manifest": results.manifest,
    }  # fmt: skip


def main() -> None:
    """Run the benchmark and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--split", default="validation")
    parser.add_argument("--images", type=int, default=100, help="number of images (100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the compositions (0)")
    parser.add_argument("--methods", help="comma-separated; default: all fast ones")
    parser.add_argument(
        "--slow", action="store_true", help="the slow methods, and ours for comparison"
    )
    parser.add_argument(
        "--lrp", action="store_true", help="LRP methods of hilrp (AttnLRP only without --slow)"
    )
    parser.add_argument(
        "--refined", action="store_true", help="the best other methods with affinity refinement"
    )
    parser.add_argument(
        "--variants", action="store_true", help="only our method, with different parameters"
    )
    parser.add_argument("--metrics", help="comma-separated; default: the core metrics")
    parser.add_argument(
        "--full", action="store_true", help="all metrics instead of the core metrics"
    )
    parser.add_argument("--refine", default="none", help="none, guided or superpixels")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument(
        "--precision", default="bfloat16", help="precision for perturbed images (bfloat16)"
    )
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-explain")
    options = parser.parse_args()
    methods = options.methods.split(",") if options.methods else list(METHODS)
    if options.slow:
        methods = [OURS, *SLOW]
    if options.refined:
        methods = [OURS, f"{OURS}:uniform", *REFINED]
    if options.variants:
        methods = list(VARIANTS)
    if options.lrp:
        methods = [*methods, *LRP_METHODS] if options.slow else [OURS, LRP_METHODS[0]]
    model = semattn.load()
    preprocessing = Preprocessing.of(model)
    setting = evaluation.Setting(
        steps=options.steps,
        precision=options.precision,
        black=tuple(
            -mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)
        ),
    )
    metrics = list(evaluation.measures) if options.full else evaluation.core()
    if options.metrics:
        metrics = options.metrics.split(",")
    name = options.split.replace("-", "_")
    name += "_slow" * options.slow + "_variants" * options.variants
    name += "_grown" * options.refined + "_lrp" * (options.lrp and not options.slow)
    name += f"_{options.refine}" * (options.refine != "none")
    results = evaluation.evaluate(
        model, MaskedCompositions(options.split, options.images, options.seed), methods, metrics,
        setting=setting,
        refine=options.refine, classes=model.classes,  # type: ignore[arg-type]
        folder=options.work / f"{name}-{options.images}-{options.seed}",
        progress=lambda _, done, total: print(f"{done} of {total}", flush=True),
    )  # fmt: skip
    table = evaluation.table(results)
    num_correct = sum(bool(is_correct) for is_correct in results.right)
    caption = (
        f'Objects on scenes, split "{options.split}", {len(results.names)} images, the true class '
        f"explained (the model is right on {num_correct}); refinement: {options.refine}; insertion "
        f"and deletion of patches in {options.steps} steps against the blurred image, in "
        f"{options.precision}. Means, and "
        "differences in pairs, with 95 % bootstrap intervals over images. Made by "
        "`python -m benchmarks.studies.explain.methods`."
    )
    path = RESULTS_DIR / f"explain_{name}.json"
    write_text(path, json.dumps(result(results, table, caption), indent=1, default=str) + "\n")
    print(evaluation.markdown(table))


if __name__ == "__main__":
    main()
