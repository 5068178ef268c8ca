"""What insertion and deletion cost beside their forward passes.

    python -m benchmarks.bench_faithfulness

The embedded model, 100 compositions of the validation split, 16 steps, a map that is there already.
Ways take turns block by block: plain forward passes of as many images as each way looks at,
semattn's curves over its four baselines, and Quantus's PixelFlipping (deletion alone) at as many
steps. The ratio is to plain forward passes of the same number.
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
from semattn.grid import PatchGrid
from semattn.images import Preprocessing, prepare
from semattn.metrics import faithfulness

from . import measuring
from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.fetch import default_root

RESULTS = Path(__file__).parent / "results" / "faithfulness.json"
STEPS = 16
BATCH = 32
BLOCK = 10  # images between turns
BASELINES = ("blur", "mean", "black", "inpaint")
GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)


def plain(model: nn.Module, images: Tensor, _scores: Tensor, _target: Tensor) -> None:
    """The images through the model as often as both curves ask, in batches of the same size."""
    many = images.repeat(2 * STEPS, 1, 1, 1)
    with torch.inference_mode():
        for start in range(0, len(many), BATCH):
            model(many[start : start + BATCH])


def pixel_flipping(model: nn.Module, images: Tensor, scores: Tensor, target: Tensor) -> None:
    """Quantus's deletion, in as many steps."""
    import quantus

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantus.PixelFlipping(
            features_in_step=images.shape[2] * images.shape[3] // STEPS, disable_warnings=True
        )(
            model=model, x_batch=images.numpy(), y_batch=target.numpy(),
            a_batch=GRID.upsample(scores)[:, None].numpy(), batch_size=BATCH,
        )  # fmt: skip


Way = Callable[[nn.Module, Tensor, Tensor, Tensor], None]


def ways(black: list[float]) -> dict[str, tuple[int, Way]]:
    """Each way, with the number of images that it shows to the model for one."""

    def ours(baseline: str) -> Way:
        def run(model: nn.Module, images: Tensor, scores: Tensor, target: Tensor) -> None:
            faithfulness.curves(
                model, images, scores, target, grid=GRID, baseline=baseline, black=black,
                parts=STEPS, batch_size=BATCH,
            )  # fmt: skip

        return run

    made: dict[str, tuple[int, Way]] = {"plain": (2 * STEPS, plain)}
    for one in BASELINES:
        made[f"insertion and deletion, {one}"] = (2 * STEPS, ours(one))
    return made | {"Quantus PixelFlipping, deletion alone": (STEPS, pixel_flipping)}


def run(count: int) -> dict[str, Any]:
    """The table."""
    model = semattn.load()
    data = ObjectsOnScenes(default_root(), "validation", count=count, seed=0)
    own = Preprocessing.of(model)
    todo = ways([-mean / std for mean, std in zip(own.mean, own.std, strict=True)])
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    chance = torch.Generator().manual_seed(0)
    for start in range(0, count, BLOCK):
        items = [data[number] for number in range(start, min(start + BLOCK, count))]
        images = torch.cat([prepare(one.image, own).inputs for one in items])
        target = torch.tensor([one.label for one in items])
        scores = torch.rand(len(items), GRID.patches, generator=chance)
        for name, (_, way) in todo.items():
            if not start:
                way(model, images[:1], scores[:1], target[:1])
            began = time.perf_counter()
            way(model, images, scores, target)
            seconds[name].append(time.perf_counter() - began)
        print(f"{start + len(items)} of {count}", flush=True)
    rows = []
    for name, (shown, _) in todo.items():
        against = [shown / (2 * STEPS) * one for one in seconds["plain"]]
        ratios = np.divide(seconds[name], against)
        rows.append(
            {"tokens": GRID.tokens, "way": name, "shown": shown, "seconds": sum(seconds[name]),
             "time_ratio": statistics.median(ratios)}
        )  # fmt: skip
    caption = (
        f"The embedded model, float32, {count} images, {STEPS} steps, batches of {BATCH}: all "
        "seconds, and the median over blocks of ten images of the ratio to plain forward passes "
        f"of the same number. {measuring.versions()} Made by "
        "`python -m benchmarks.bench_faithfulness`."
    )
    made = measuring.result(rows, caption)
    made["columns"] = [
        {"key": "way", "title": "what is computed"},
        {"key": "shown", "title": "images in the model, for one", "format": "d"},
        {"key": "seconds", "title": "seconds", "format": ".1f"},
        {"key": "time_ratio", "title": "of the plain passes", "format": ".2f"},
    ]
    return made


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100, help="how many (100)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the result goes")
    options = parser.parse_args()
    measuring.write(run(options.images), options.out)


if __name__ == "__main__":
    main()
