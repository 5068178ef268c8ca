"""Cost of insertion and deletion relative to their forward passes.

    python -m benchmarks.studies.cost.faithfulness

The embedded model, 100 compositions of the validation split, 16 steps, precomputed maps. Timed in
turn, block by block: plain forward passes of the same number of images, semattn's curves with its
four baselines, and Quantus's PixelFlipping (deletion only) with the same number of steps. The ratio
is relative to the plain forward passes.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import semattn
from benchmarks import RESULTS_DIR
from semattn.grid import PatchGrid
from semattn.images import Preprocessing, prepare
from semattn.metrics import faithfulness

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from . import measuring

RESULTS = RESULTS_DIR / "faithfulness.json"
STEPS = 16
BATCH = 32
BLOCK = 10  # images between turns
BASELINES = ("blur", "mean", "black", "inpaint")
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)


def forward_passes(model: nn.Module, images: Tensor, _scores: Tensor, _target: Tensor) -> None:
    """Run as many forward passes as both curves need, in batches of the same size."""
    repeated = images.repeat(2 * STEPS, 1, 1, 1)
    with torch.inference_mode():
        for start in range(0, len(repeated), BATCH):
            model(repeated[start : start + BATCH])


def pixel_flipping(model: nn.Module, images: Tensor, scores: Tensor, target: Tensor) -> None:
    """Run Quantus's deletion with the same number of steps."""
    import quantus

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus.PixelFlipping(
            features_in_step=images.shape[2] * images.shape[3] // STEPS, disable_warnings=True
        )(
            model=model, x_batch=images.numpy(), y_batch=target.numpy(),
            a_batch=GRID.upsample(scores)[:, None].numpy(), batch_size=BATCH,
        )  # fmt: skip


Call = Callable[[nn.Module, Tensor, Tensor, Tensor], None]


def make_calls(black_pixel: list[float]) -> dict[str, tuple[int, Call]]:
    """Return each function with the number of images that it evaluates per input image."""

    def insertion_deletion(baseline: str) -> Call:
        def run(model: nn.Module, images: Tensor, scores: Tensor, target: Tensor) -> None:
            faithfulness.curves(
                model, images, scores, target, grid=GRID, baseline=baseline, black=black_pixel,
                fractions=STEPS, batch_size=BATCH,
            )  # fmt: skip

        return run

    calls: dict[str, tuple[int, Call]] = {"plain": (2 * STEPS, forward_passes)}
    for kind in BASELINES:
        calls[f"insertion and deletion, {kind}"] = (2 * STEPS, insertion_deletion(kind))
    return calls | {"Quantus PixelFlipping, deletion alone": (STEPS, pixel_flipping)}


def run(count: int) -> dict[str, Any]:
    """Compute the table."""
    model = semattn.load()
    data = ObjectsOnScenes(default_root(), "validation", count=count, seed=0)
    preprocessing = Preprocessing.of(model)
    calls = make_calls(
        [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, BLOCK):
        items = [data[number] for number in range(start, min(start + BLOCK, count))]
        images = torch.cat([prepare(item.image, preprocessing).inputs for item in items])
        target = torch.tensor([item.label for item in items])
        scores = torch.rand(len(items), GRID.patches, generator=generator)
        for name, (_, call) in calls.items():
            if not start:
                call(model, images[:1], scores[:1], target[:1])
            start_time = time.perf_counter()
            call(model, images, scores, target)
            seconds[name].append(time.perf_counter() - start_time)
        print(f"{start + len(items)} of {count}", flush=True)
    rows = []
    for name, (num_images, _) in calls.items():
        expected = [
            num_images / (2 * STEPS) * forward_seconds for forward_seconds in seconds["plain"]
        ]
        ratios = np.divide(seconds[name], expected)
        rows.append(
            {"tokens": GRID.tokens, "way": name, "shown": num_images, "seconds": sum(seconds[name]),
             "time_ratio": statistics.median(ratios)}
        )  # fmt: skip
    caption = (
        f"The embedded model, float32, {count} images, {STEPS} steps, batches of {BATCH}: all "
        "seconds, and the median over blocks of ten images of the ratio to plain forward passes "
        f"of the same number. {measuring.versions()} Made by "
        "`python -m benchmarks.studies.cost.faithfulness`."
    )
    result = measuring.result(rows, caption)
    result["columns"] = [
        {"key": "way", "title": "what is computed"},
        {"key": "shown", "title": "forward passes per image", "format": "d"},
        {"key": "seconds", "title": "seconds", "format": ".1f"},
        {"key": "time_ratio", "title": "relative to plain passes", "format": ".2f"},
    ]
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100, help="number of images (100)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="path of the result")
    options = parser.parse_args()
    measuring.write(run(options.images), options.out)


if __name__ == "__main__":
    main()
