"""What guided masks cost beside random ones: ``python -m benchmarks.bench_pretraining_cost``.

A step of training is making a batch (reading crops, masks) and a forward and backward pass with an
optimizer step. All of it runs in one process, one after the other: where workers make batches while
the model trains, guidance costs less, or nothing. The ways take turns; ratios are of the same
round. The result goes to benchmarks/results/pretraining_cost.json.
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

from semattn.masking import GuidedMasking, KeypointCache, RandomMasking
from semattn.pretraining import MaskedImages, build_model
from semattn.pretraining.run import LONGEST, collate
from semattn.utils.atomic_files import write_text

from . import measuring
from .bench_pretraining import SMALL

RESULTS = Path(__file__).parent / "results" / "pretraining_cost.json"
BARS = {"guided, cached keypoints": 1.05, "guided, keypoints of each crop": 1.15}
CASES: dict[str, dict[str, Any]] = {
    "ViT of 4 layers, 64 px": {"model": SMALL, "size": 64, "patch": 8, "batch": 64},
    "ViT-S/16, 224 px": {"model": "small", "size": 224, "patch": 16, "batch": 16},
    "ViT-B/16, 224 px": {"model": "base", "size": 224, "patch": 16, "batch": 16},
}


def pictures(size: int) -> list[Any]:
    """Photographs of scikit-image, shrunk to one and a half times the input."""
    from PIL import Image

    whole = [getattr(photographs, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    side = round(1.5 * size)
    made = []
    for one in whole:
        picture = Image.fromarray(one)
        factor = side / min(picture.size)
        made.append(picture.resize((round(picture.width * factor), round(picture.height * factor))))
    return made


def measure(
    case: dict[str, Any], rounds: int, device: str = "cpu"
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of making a batch and of a whole step, by way, a number a round.

    Parameters
    ----------
    case : one of `CASES`
    rounds : after one that does not count
    device : of the model
    """
    size, patch, batch = case["size"], case["patch"], case["batch"]
    given, options = pictures(size), {"size": size, "patch_size": patch}
    model = build_model(case["model"], image_size=size, patch_size=patch).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step(items: dict[str, Any]) -> None:
        items = {name: one.to(device) for name, one in items.items()}
        model(pixel_values=items["pixel_values"], noise=items["noise"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    with tempfile.TemporaryDirectory() as folder:
        cache = KeypointCache.build(given, folder, longest=round(LONGEST * size))
        sets = {
            "random": MaskedImages(given, RandomMasking(), **options),
            "guided, cached keypoints": MaskedImages(
                given, GuidedMasking(), cache=cache, **options
            ),
            "guided, keypoints of each crop": MaskedImages(given, GuidedMasking(), **options),
        }
        making: dict[str, list[float]] = {name: [] for name in sets}
        whole: dict[str, list[float]] = {name: [] for name in sets}
        for turn in range(rounds + 1):
            for name, data in sets.items():
                start = time.perf_counter()
                items = collate([data[turn, place % len(given)] for place in range(batch)])
                made = time.perf_counter()
                step(items)
                if turn:
                    making[name].append(made - start)
                    whole[name].append(time.perf_counter() - start)
            print(f"  round {turn} of {rounds}", file=sys.stderr)
    return making, whole


def rows_of(
    case: str, making: dict[str, list[float]], whole: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """A row a way: what its batches take, its step, and the step over that of random masks.

    The passes of the model are the same in all ways, and their noise is no cost of guidance: a
    way's step is its own batch and the round's mean of the passes.
    """
    count = len(whole["random"])
    passes = [
        statistics.fmean(whole[name][turn] - making[name][turn] for name in whole)
        for turn in range(count)
    ]
    base = [made + rest for made, rest in zip(making["random"], passes, strict=True)]
    rows = []
    for name, made in making.items():
        steps = [one + rest for one, rest in zip(made, passes, strict=True)]
        ratio = statistics.median(mine / plain for mine, plain in zip(steps, base, strict=True))
        rows.append(
            {
                "case": case, "way": name, "batch_ms": 1e3 * statistics.median(made),
                "step_ms": 1e3 * statistics.median(steps), "time_ratio": ratio,
                "bar": BARS.get(name), "held": None if name not in BARS else ratio <= BARS[name],
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cases", default=";".join(CASES), help="by semicolons")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for case in options.cases.split(";"):
        rows += rows_of(case, *measure(CASES[case], options.rounds, options.device))
    made = measuring.result([], (
        "A step of pre-training: a batch of random crops with their masks, made in the same "
        "process, then forward, backward and AdamW. Median of "
        f"{options.rounds} rounds in which the ways take turns; {options.device}, "
        f"{measuring.versions()} Made by "
        "`python -m benchmarks.bench_pretraining_cost`."
    ))  # fmt: skip
    made["rows"] = rows
    made["columns"] = [
        {"key": "case", "title": "model"},
        {"key": "way", "title": "masks"},
        {"key": "batch_ms", "title": "making the batch, ms", "format": ",.1f"},
        {"key": "step_ms", "title": "whole step, ms", "format": ",.0f"},
        {"key": "time_ratio", "title": "step ratio", "format": ".3f"},
        {"key": "bar", "title": "bar", "format": ".2f"},
    ]
    write_text(options.out, json.dumps(made, indent=1))
    for row in rows:
        print(f"{row['case']:<24} {row['way']:<32} {row['time_ratio']:.3f}x")


if __name__ == "__main__":
    main()
