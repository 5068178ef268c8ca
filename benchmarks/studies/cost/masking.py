"""Cost of guided masks relative to random masks: ``python -m benchmarks.studies.cost.masking``.

A training step builds a batch (crops and masks) and runs a forward pass, a backward pass and an
optimizer step. All of it runs sequentially in one process; with data-loading workers, guidance
costs less or nothing. The variants are timed in turn; ratios are computed within a round. The
result is written to benchmarks/results/pretraining_cost.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from skimage import data as photographs

from benchmarks import RESULTS_DIR
from semattn.masking import GuidedMasking, KeypointCache, RandomMasking
from semattn.pretraining import MaskedImages, build_model
from semattn.pretraining.run import LONGEST, collate
from semattn.utils.atomic_files import write_text

from ..pretraining.acceleration import SMALL
from . import measuring

RESULTS = RESULTS_DIR / "pretraining_cost.json"
LIMITS = {"guided, cached keypoints": 1.05, "guided, keypoints of each crop": 1.15}
CASES: dict[str, dict[str, Any]] = {
    "ViT of 4 layers, 64 px": {"model": SMALL, "size": 64, "patch": 8, "batch": 64},
    "ViT-S/16, 224 px": {"model": "small", "size": 224, "patch": 16, "batch": 16},
    "ViT-B/16, 224 px": {"model": "base", "size": 224, "patch": 16, "batch": 16},
}


def load_images(size: int) -> list[Any]:
    """Return photographs of scikit-image, resized to one and a half times the input."""
    from PIL import Image

    originals = [
        getattr(photographs, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    side = round(1.5 * size)
    resized = []
    for pixels in originals:
        image = Image.fromarray(pixels)
        factor = side / min(image.size)
        resized.append(image.resize((round(image.width * factor), round(image.height * factor))))
    return resized


def measure(
    case: dict[str, Any], rounds: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of building a batch and of a whole step, by variant and round.

    Parameters
    ----------
    case : one of `CASES`
    rounds : after one warm-up round
    device : of the model
    """
    size, patch, batch = case["size"], case["patch"], case["batch"]
    images, options = load_images(size), {"size": size, "patch_size": patch}
    model = build_model(case["model"], image_size=size, patch_size=patch).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step(items: dict[str, Any]) -> None:
        items = {name: tensor.to(device) for name, tensor in items.items()}
        model(pixel_values=items["pixel_values"], noise=items["noise"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as folder:
        keypoint_cache = KeypointCache.build(images, folder, max_side=round(LONGEST * size))
        sets = {
            "random": MaskedImages(images, RandomMasking(), **options),
            "guided, cached keypoints": MaskedImages(
                images, GuidedMasking(), cache=keypoint_cache, **options
            ),
            "guided, keypoints of each crop": MaskedImages(images, GuidedMasking(), **options),
        }
        batch_seconds: dict[str, list[float]] = {name: [] for name in sets}
        step_seconds: dict[str, list[float]] = {name: [] for name in sets}
        for turn in range(rounds + 1):
            for name, data in sets.items():
                start = time.perf_counter()
                items = collate([data[turn, index % len(images)] for index in range(batch)])
                batch_end = time.perf_counter()
                step(items)
                if turn:
                    batch_seconds[name].append(batch_end - start)
                    step_seconds[name].append(time.perf_counter() - start)
            print(f"  round {turn} of {rounds}", file=sys.stderr)
    return batch_seconds, step_seconds


def rows_of(
    case: str, batch_seconds: dict[str, list[float]], step_seconds: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Return one row per variant: batch time, step time, and the ratio to random masks.

    The passes of the model are equal in all variants, and their noise is not a cost of guidance:
    the step time of a variant is its own batch time plus the round's mean time of the passes.
    """
    count = len(step_seconds["random"])
    pass_seconds = [
        statistics.fmean(
            step_seconds[name][turn] - batch_seconds[name][turn] for name in step_seconds
        )
        for turn in range(count)
    ]
    base = [
        batch_time + pass_time
        for batch_time, pass_time in zip(batch_seconds["random"], pass_seconds, strict=True)
    ]
    table_rows = []
    for name, batch_times in batch_seconds.items():
        steps = [
            batch_time + pass_time
            for batch_time, pass_time in zip(batch_times, pass_seconds, strict=True)
        ]
        ratio = statistics.median(
            step / base_step for step, base_step in zip(steps, base, strict=True)
        )
        table_rows.append(
            {
                "case": case, "way": name, "batch_ms": 1e3 * statistics.median(batch_times),
                "step_ms": 1e3 * statistics.median(steps), "time_ratio": ratio,
                "bar": LIMITS.get(name),
                "held": None if name not in LIMITS else ratio <= LIMITS[name],
            }
        )  # fmt: skip
    return table_rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", default=";".join(CASES), help="separated by semicolons")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in options.cases.split(";"):
        rows += rows_of(case, *measure(CASES[case], options.rounds, options.device))
    result = measuring.result([], (
        "A step of pre-training: a batch of random crops with their masks, made in the same "
        "process, then forward, backward and AdamW. Median of "
        f"{options.rounds} interleaved rounds; {options.device}, "
        f"{measuring.versions()} Made by "
        "`python -m benchmarks.studies.cost.masking`."
    ))  # fmt: skip
    result["rows"] = rows
    result["columns"] = [
        {"key": "case", "title": "model"},
        {"key": "way", "title": "masks"},
        {"key": "batch_ms", "title": "batch, ms", "format": ",.1f"},
        {"key": "step_ms", "title": "step, ms", "format": ",.0f"},
        {"key": "time_ratio", "title": "step ratio", "format": ".3f"},
        {"key": "bar", "title": "bar", "format": ".2f"},
    ]
    write_text(options.out, json.dumps(result, indent=1))
    for row in rows:
        print(f"{row['case']:<24} {row['way']:<32} {row['time_ratio']:.3f}x")


if __name__ == "__main__":
    main()
