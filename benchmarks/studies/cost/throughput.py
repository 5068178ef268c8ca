"""Throughput of an audit: ``python -m benchmarks.studies.cost.throughput [--images 96]``.

Compared with the slower of its two stages alone: reading with SIFT, and the model's forward and
backward pass. Reading alone has the same worker processes as reading with SIFT. Explaining tensors
whose keypoints are known, and SIFT of PyTorch on the device of the model, are timed alone, too.
Compositions of the training set, as files, with the embedded model. The variants are timed in turn;
ratios are computed within a round. The result is written to benchmarks/results/throughput.json,
with the inputs of `scale`: operations, memory, disk space. On a GPU:
``--device cuda --images 2048 --batch-size 64 --rounds 2``, which takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import RESULTS_DIR
from semattn.audit import audit
from semattn.data import open_source
from semattn.data.loading import ImageLoader
from semattn.data.prefetching import BatchRange, default_workers, load_batches
from semattn.explain import explainers
from semattn.images import Preprocessing
from semattn.keypoints import Keypoints, detect
from semattn.utils.atomic_files import write_text
from semattn.zoo import load

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root
from . import measuring

RESULTS = RESULTS_DIR / "throughput.json"
LIMIT = 0.9
SIDE, CLASSES = 448, 13
DECODING, READING = "reading alone", "reading and SIFT"
PASSES, EXPLAIN = "forward and backward", "semattn audit, explain"
TENSORS, SIFT = "explain, from tensors", "sift-torch on the device"
BOTH = "semattn audit, explain and analyze"

Timed = Callable[[int], float]


def write_images(folder: Path, count: int, pictures: Path | None) -> Path:
    """Write compositions as JPEG files, or copy the files of a folder repeatedly."""
    folder.mkdir()
    if pictures:
        paths = sorted(pictures.iterdir())
        for number in range(count):
            shutil.copy(paths[number % len(paths)], folder / f"{number:05}.jpg")
        return folder
    data = ObjectsOnScenes(default_root(), split="train", size=SIDE, count=count)
    for number in range(count):
        Image.fromarray(data[number].image).save(folder / f"{number:05}.jpg", quality=92)
    return folder


def timed(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def no_keypoints(pixels: np.ndarray, *, descriptors: bool = False) -> Keypoints:
    """Return no keypoints: a detector that takes no time."""
    empty = torch.zeros(0)
    return Keypoints(torch.zeros(0, 2), empty, empty, empty, None, pixels.shape[:2], "none")


def timed_calls(model: nn.Module, folder: Path, options: argparse.Namespace) -> dict[str, Timed]:
    """Return the functions to time: each takes the round and returns its seconds."""
    device = next(model.parameters()).device
    size = options.batch_size
    image_folder = write_images(folder / "in", options.images, options.pictures)
    source = open_source(image_folder, tuple(model.classes), CLASSES)
    image_loader = ImageLoader(Preprocessing.of(model), "sift", ("keypoints",))
    paths = list(source.data.sources)
    batches = [
        BatchRange(start, min(start + size, len(paths))) for start in range(0, len(paths), size)
    ]
    workers = default_workers(model) if options.workers is None else options.workers
    first = image_loader.load(0, paths[:size]).images
    assert first is not None
    keypoints = detect(first.pixels)
    explainer = explainers["sift-patch-interrelation"]()

    decoder = ImageLoader(image_loader.preprocessing, no_keypoints, ())

    def decoding(turn: int) -> float:
        return timed(lambda: deque(load_batches(decoder, paths, batches, workers), maxlen=0))

    def reading(turn: int) -> float:
        return timed(lambda: deque(load_batches(image_loader, paths, batches, workers), maxlen=0))

    def passes(turn: int) -> float:
        return timed(lambda: [forward_backward(batch.stop - batch.first) for batch in batches])

    def forward_backward(count: int) -> None:
        x = first.inputs[:count].to(device).requires_grad_(True)
        model(x).max(dim=1).values.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def explaining(turn: int) -> float:
        return timed(lambda: [explain(batch.stop - batch.first) for batch in batches])

    def explain(count: int) -> None:
        x = first.inputs[:count].to(device)
        explainer.explain(model, x, manifest={"weights": "timed"}, keypoints=keypoints[:count])

    def detecting(turn: int) -> float:
        return timed(lambda: [
            detect(first.pixels[: batch.stop - batch.first], "sift-torch", device=device)
            for batch in batches
        ])  # fmt: skip

    def run_audit(*jobs: str) -> Timed:
        return lambda turn: audit(
            model, source, folder / f"{len(jobs)}-{turn}", jobs=jobs, batch_size=size,
            workers=workers,
        ).seconds  # fmt: skip

    return {
        DECODING: decoding, READING: reading, PASSES: passes, TENSORS: explaining, SIFT: detecting,
        EXPLAIN: run_audit("explain"), BOTH: run_audit("explain", "analyze"),
    }  # fmt: skip


def rows_of(seconds: dict[str, list[float]], images: int) -> list[dict[str, Any]]:
    """Return one row per variant: its rate, and the ratio to the slower stage of the round."""
    stages = zip(seconds[READING], seconds[PASSES], strict=True)
    slower_stage = [max(stage_seconds) for stage_seconds in stages]
    return [
        {
            "way": label, "rate": images / statistics.median(values),
            "ratio": statistics.median(
                stage_value / value for stage_value, value in zip(slower_stage, values, strict=True)
            ),
            "bar": LIMIT if label == EXPLAIN else None,
        }
        for label, values in seconds.items()
    ]  # fmt: skip


def describe_device(device: str) -> str:
    """Return the name of the device and the number of CPU cores."""
    name = torch.cuda.get_device_name(device) if device != "cpu" else "the processor"
    return f"{name}, {os.cpu_count()} cores"


def resources_per_image(model: nn.Module, folder: Path, images: int) -> dict[str, float]:
    """Return the resources per image; `folder` is that of `timed_calls` after the first round."""
    x = torch.zeros(1, 3, *Preprocessing.of(model).size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        explainers["sift-patch-interrelation"](density="center").attribute(model, x)
    out_dir = folder / "1-0"
    rows = (out_dir / "explain.parquet").stat().st_size
    maps = sum(path.stat().st_size for path in (out_dir / "maps").iterdir())
    sums = sum(path.stat().st_size for path in (folder / "2-0" / ".audit").glob("analysis-*.npz"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "gflop": counter.get_total_flops() / 1e9, "row_bytes": rows / images,
        "map_bytes": maps / images, "sums_mib": sums / 2**20, "peak_mib": peak / 2**10,
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument(
        "--pictures", type=Path, help="folder of JPEG files to use instead of compositions"
    )
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    model = load(pretrained=not options.random_weights, device=options.device)
    model.requires_grad_(False)  # no gradients of weights in any way
    with tempfile.TemporaryDirectory() as folder:
        calls = timed_calls(model, Path(folder), options)
        seconds: dict[str, list[float]] = {label: [] for label in calls}
        for turn in range(options.rounds + 1):
            for label, call in calls.items():
                elapsed = call(turn)
                if turn:
                    seconds[label].append(elapsed)
            print(f"round {turn} of {options.rounds}", file=sys.stderr)
        resources = resources_per_image(model, Path(folder), options.images)
    result = measuring.result([], (
        f"{options.images} photographs of {SIDE} pixels, the embedded model"
        f"{' with random weights' * options.random_weights}, batches of {options.batch_size}, on "
        f"{describe_device(options.device)}; median of {options.rounds} interleaved rounds after "
        "a warm-up. Relative rate: the rate over that of the slower stage alone; "
        f"{measuring.versions()} Made by "
        "`python -m benchmarks.studies.cost.throughput`."
    ))  # fmt: skip
    result["rows"] = rows_of(seconds, options.images)
    result["needs"] = resources
    result["columns"] = [
        {"key": "way", "title": "what"},
        {"key": "rate", "title": "images per second", "format": ",.1f"},
        {"key": "ratio", "title": "relative rate", "format": ".2f"},
        {"key": "bar", "title": "bar", "format": ".2f"},
    ]
    write_text(options.out, json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(f"{row['way']:<40} {row['rate']:.1f}/s {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
