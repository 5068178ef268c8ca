"""Engines of an audit compared: ``python -m benchmarks.studies.cost.engines [--images 768]``.

One audit runs in one process, in two processes, on Ray with two actors, and on Ray with a raylet
for each of two nodes of this machine, in turn. Every process uses one thread. The files of all ways
are compared byte by byte. The rate is measured from the first finished unit to the last one, so
that starting processes, which takes seconds, is a column of its own. The result is written to
benchmarks/results/engines.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import RESULTS_DIR
from semattn.audit import audit, open_source
from semattn.utils.atomic_files import write_text

from . import measuring

RESULTS = RESULTS_DIR / "engines.json"
MODEL, SIDE, BATCH = "deit_tiny_patch16_224", 224, 2
LIMIT = 0.9  # least rate of Ray, relative to two local processes
ONE, TWO = "one process", "two processes"
ACTORS, RAYLETS = "Ray, 2 actors", "Ray, 2 actors on 2 raylets"
MODULE = "benchmarks.studies.cost.engines"


def write_images(folder: Path, count: int) -> Path:
    """Write smooth noise with keypoints as JPEG files."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (28, 28, 3), dtype=np.uint8))
        large = small.resize((SIDE * 2, SIDE * 2), Image.Resampling.BICUBIC)
        large.save(folder / f"{number:05}.jpg", quality=92)
    return folder


def run(options: argparse.Namespace) -> None:
    """Run one process of an audit, or the driver of an engine."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(MODEL, pretrained=False).eval()
    source = open_source(options.source, (), 1000)
    chosen = {} if options.engine == "local" else {
        "engine": "ray", "address": options.address, "actors": 2,
    }  # fmt: skip
    audit(
        model, source, options.out, jobs=["explain"], batch_size=BATCH,
        process=(options.index, options.processes), **chosen,
    )  # fmt: skip


def start(source: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start `run` in a process."""
    command = [sys.executable, "-m", MODULE, "--source", str(source), "--out", str(out), *more]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def processes(count: int) -> Callable[[Path, Path], None]:
    """Return a function that runs an audit in a number of local processes."""

    def call(source: Path, out: Path) -> None:
        started = [
            start(source, out, "--index", str(index), "--processes", str(count))
            for index in range(count)
        ]
        assert [process.wait() for process in started] == [0] * count

    return call


def on_ray(source: Path, out: Path) -> None:
    """Run an audit on one node."""
    assert start(source, out, "--engine", "ray").wait() == 0


def on_raylets(source: Path, out: Path) -> None:
    """Run an audit on two nodes of this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        cluster.add_node(num_cpus=2)
        more = ("--engine", "ray", "--address", cluster.address)
        assert start(source, out, *more).wait() == 0
    finally:
        cluster.shutdown()


def files_of(out: Path) -> dict[str, bytes]:
    """Return the result files of an audit."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".audit" not in path.parts
    }


def measure(out: Path, began: float) -> tuple[float, float]:
    """Return the images per second after the first unit, and the seconds until it was finished."""
    sizes, times = [], []
    for file in (out / ".audit").glob("unit-*.npz"):
        with np.load(file) as unit:
            sizes.append(len(unit["number"]))
        times.append(file.stat().st_mtime)
    order = np.argsort(times)
    images = int(np.array(sizes)[order][1:].sum())
    return images / (max(times) - min(times)), min(times) - began


WAYS: dict[str, Callable[[Path, Path], None]] = {
    ONE: processes(1), TWO: processes(2), ACTORS: on_ray, RAYLETS: on_raylets,
}  # fmt: skip


def main() -> None:
    """Compare and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--address", default="local")
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.source:
        run(options)
        return
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    starts: dict[str, list[float]] = {way: [] for way in WAYS}
    different = dict.fromkeys(WAYS, 0)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = write_images(work / "in", options.images)
        for turn in range(options.rounds):
            expected: dict[str, bytes] = {}
            for number, (way, call) in enumerate(WAYS.items()):
                out = work / f"{turn}-{number}"
                began = time.time()
                call(source, out)
                rate, seconds = measure(out, began)
                rates[way].append(rate)
                starts[way].append(seconds)
                files = files_of(out)
                expected = expected or files
                different[way] += sum(
                    files.get(name) != expected.get(name) for name in files.keys() | expected.keys()
                )
                print(f"{way:<30} {rate:.2f}/s, start {seconds:.0f} s", file=sys.stderr)
            write_text(options.out, json.dumps(table(options, rates, starts, different), indent=1))


def table(
    options: argparse.Namespace, rates: dict[str, list[float]], starts: dict[str, list[float]],
    different: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    """Return the result."""
    import ray

    ratios = {
        way: [rate / base for rate, base in zip(rates[way], rates[TWO], strict=False)]
        for way in WAYS
    }
    rows = [
        {
            "way": way, "rate": statistics.median(rates[way]),
            "ratio": statistics.median(ratios[way]),
            "lowest": min(ratios[way]), "highest": max(ratios[way]),
            "bar": LIMIT if way in (ACTORS, RAYLETS) else None,
            "start": statistics.median(starts[way]), "different": different[way],
        }
        for way in WAYS
    ]  # fmt: skip
    rounds = len(rates[RAYLETS])
    return {
        "caption": f"{options.images} pictures of {2 * SIDE} pixels, {MODEL} with random weights, "
        f"explained in batches of {BATCH} by one thread per process, on 2 cores; median of "
        f"{rounds} interleaved rounds; ratios, and the lowest and highest one, are within a round. "
        "Rate: from the first finished unit to the last one. Start: seconds until the first unit "
        "is finished. Different: files that differ from those of one process. Ray "
        f"{ray.__version__}, {measuring.versions()} Made by `python -m {MODULE}`.",
        "columns": [
            {"key": "way", "title": "engine"},
            {"key": "rate", "title": "images per second", "format": ".1f"},
            {"key": "ratio", "title": "relative to two processes", "format": ".2f"},
            {"key": "lowest", "title": "lowest", "format": ".2f"},
            {"key": "highest", "title": "highest", "format": ".2f"},
            {"key": "bar", "title": "bar", "format": ".2f"},
            {"key": "start", "title": "start, s", "format": ".0f"},
            {"key": "different", "title": "different files", "format": "d"},
        ],
        "rows": rows,
        "raw": {"rates": rates, "starts": starts},
        "machine": measuring.machine(),
    }


if __name__ == "__main__":
    main()
