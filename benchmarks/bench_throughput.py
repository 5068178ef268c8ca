"""How fast an audit goes: ``python -m benchmarks.bench_throughput [--images 96]``.

Held against the slower of its two halves alone: reading and SIFT, and the model's forward and
backward pass. Compositions of the training set as files; the embedded model; the ways take turns,
and ratios are of the same round. The result goes to benchmarks/results/throughput.json, with what
`scale` plans from: operations, memory, and bytes on the disk.
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

import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semattn.audit import audit
from semattn.data import open_source
from semattn.data.loading import Reader
from semattn.data.prefetching import Batch, default_workers, stream
from semattn.explain import explainers
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text
from semattn.zoo import load

from . import measuring
from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.fetch import default_root

RESULTS = Path(__file__).parent / "results" / "throughput.json"
BAR = 0.9
SIDE, CLASSES = 448, 13
DECODING, READING = "reading alone", "reading and SIFT"
PASSES, EXPLAIN = "forward and backward", "semattn audit, explain"
BOTH = "semattn audit, explain and analyze"

Way = Callable[[int], float]


def files(folder: Path, count: int, pictures: Path | None) -> Path:
    """Compositions as JPEG files; or those of a folder, over and over."""
    folder.mkdir()
    if pictures:
        made = sorted(pictures.iterdir())
        for number in range(count):
            shutil.copy(made[number % len(made)], folder / f"{number:05}.jpg")
        return folder
    data = ObjectsOnScenes(default_root(), split="train", size=SIDE, count=count)
    for number in range(count):
        Image.fromarray(data[number].image).save(folder / f"{number:05}.jpg", quality=92)
    return folder


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ways(model: nn.Module, folder: Path, options: argparse.Namespace) -> dict[str, Way]:
    """What is timed: a function of the round, which gives its seconds."""
    device = next(model.parameters()).device
    size = options.batch_size
    given = files(folder / "in", options.images, options.pictures)
    source = open_source(given, tuple(model.classes), CLASSES)
    reader = Reader(Preprocessing.of(model), "sift", ("keypoints",))
    paths = list(source.data.sources)
    places = [Batch(at, min(at + size, len(paths))) for at in range(0, len(paths), size)]
    workers = default_workers(model) if options.workers is None else options.workers
    first = reader.load(0, paths[:size]).images
    assert first is not None

    def decoding(turn: int) -> float:
        return timed(lambda: [prepare(path, reader.wanted) for path in paths])

    def reading(turn: int) -> float:
        return timed(lambda: deque(stream(reader, paths, places, workers), maxlen=0))

    def passes(turn: int) -> float:
        return timed(lambda: [both(place.stop - place.first) for place in places])

    def both(count: int) -> None:
        x = first.inputs[:count].to(device).requires_grad_(True)
        model(x).max(dim=1).values.sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    def whole(*jobs: str) -> Way:
        return lambda turn: audit(
            model, source, folder / f"{len(jobs)}-{turn}", jobs=jobs, batch_size=size,
            workers=workers,
        ).seconds  # fmt: skip

    return {
        DECODING: decoding, READING: reading, PASSES: passes, EXPLAIN: whole("explain"),
        BOTH: whole("explain", "analyze"),
    }  # fmt: skip


def rows_of(seconds: dict[str, list[float]], images: int) -> list[dict[str, Any]]:
    """A row a way: its rate, and that over the rate of the slower half in the same round."""
    halves = zip(seconds[READING], seconds[PASSES], strict=True)
    slower = [max(two) for two in halves]
    return [
        {
            "way": way, "rate": images / statistics.median(took),
            "ratio": statistics.median(
                alone / mine for alone, mine in zip(slower, took, strict=True)
            ),
            "bar": BAR if way == EXPLAIN else None,
        }
        for way, took in seconds.items()
    ]  # fmt: skip


def where(device: str) -> str:
    """The device, and the cores that read for it."""
    name = torch.cuda.get_device_name(device) if device != "cpu" else "the processor"
    return f"{name}, {os.cpu_count()} cores"


def needs(model: nn.Module, folder: Path, images: int) -> dict[str, float]:
    """What an image takes besides time; `folder` is that of `ways` after the first round."""
    x = torch.zeros(1, 3, *Preprocessing.of(model).size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counted:
        explainers["sift-patch-interrelation"](density="center").attribute(model, x)
    done = folder / "1-0"
    rows = (done / "explain.parquet").stat().st_size
    maps = sum(one.stat().st_size for one in (done / "maps").iterdir())
    sums = sum(one.stat().st_size for one in (folder / "2-0" / ".audit").glob("analysis-*.npz"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "gflop": counted.get_total_flops() / 1e9, "row_bytes": rows / images,
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
    parser.add_argument("--pictures", type=Path, help="JPEG files in place of compositions")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    model = load(pretrained=not options.random_weights, device=options.device)
    model.requires_grad_(False)  # no gradients of weights in any way
    with tempfile.TemporaryDirectory() as folder:
        every = ways(model, Path(folder), options)
        seconds: dict[str, list[float]] = {way: [] for way in every}
        for turn in range(options.rounds + 1):
            for way, call in every.items():
                took = call(turn)
                if turn:
                    seconds[way].append(took)
            print(f"round {turn} of {options.rounds}", file=sys.stderr)
        wanted = needs(model, Path(folder), options.images)
    made = measuring.result([], (
        f"{options.images} photographs of {SIDE} pixels, the embedded model"
        f"{' with random weights' * options.random_weights}, batches of {options.batch_size}, on "
        f"{where(options.device)}; median of {options.rounds} rounds in which the "
        "ways take turns, after one that does not count. Of the slower half: the rate over that of "
        f"the slower of the first two; {measuring.versions()} Made by "
        "`python -m benchmarks.bench_throughput`."
    ))  # fmt: skip
    made["rows"] = rows_of(seconds, options.images)
    made["needs"] = wanted
    made["columns"] = [
        {"key": "way", "title": "what"},
        {"key": "rate", "title": "images a second", "format": ",.1f"},
        {"key": "ratio", "title": "of the slower half", "format": ".2f"},
        {"key": "bar", "title": "bar", "format": ".2f"},
    ]
    write_text(options.out, json.dumps(made, indent=1) + "\n")
    for row in made["rows"]:
        print(f"{row['way']:<40} {row['rate']:.1f}/s {row['ratio']:.2f}")


if __name__ == "__main__":
    main()
