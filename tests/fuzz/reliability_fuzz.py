"""Fuzzing: ``python -m tests.fuzz.reliability_fuzz [--inputs 100000] [--seed 0]``.

Each area runs in a process of its own. It draws its inputs by the seed, passes them to semattn, and
counts the outcomes: answered correctly, refused clearly, crashed, and state left changed. Memory is
measured after a warm-up and at the end. The table is written after every area, so that a run may be
stopped and resumed with the remaining areas: ``--areas pictures arrays``. The result is written to
benchmarks/results/reliability_fuzz.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import RESULTS_DIR, ROOT
from semattn.utils.atomic_files import write_text

from . import (
    fuzzing,
    fuzzing_archives,
    fuzzing_arguments,
    fuzzing_files,
    fuzzing_images,
    fuzzing_models,
    fuzzing_patches,
)

RESULTS = RESULTS_DIR / "reliability_fuzz.json"
WARM_UP = 1000  # inputs before memory is measured; at most a tenth of all inputs

# Area: the function that makes its attempt, and its title in the table.
AREAS: dict[str, tuple[Any, str]] = {
    "pictures": (fuzzing_images.pictures, "pictures: damaged and forged files"),
    "arrays": (fuzzing_images.arrays, "arrays, tensors, PIL images, and none of them"),
    "keypoints": (fuzzing_patches.keypoint_detection, "keypoints: detectors, crops"),
    "density": (fuzzing_patches.density_functions, "densities, concentration, strata, grids"),
    "masking": (fuzzing_patches.mask_policies, "masks and loss weights"),
    "explained": (fuzzing_models.explanations, "explanations: images, targets, options, models"),
    "attention": (fuzzing_models.attention, "attention recorded, steered, prompted"),
    "archives": (fuzzing_archives.archives, "archives, lists, folders"),
    "kept": (fuzzing_files.stored_files, "maps, analyses, searches, keypoints on the disk"),
    "checkpoints": (fuzzing_files.checkpoint_files, "weights"),
    "arguments": (fuzzing_arguments.command_lines, "command lines"),
}


def measured(area: str, inputs: int, seed: int, work: Path) -> dict[str, Any]:
    """Run the inputs of one area; return a row of the table and the crashes."""
    torch.set_num_threads(1)
    area_dir, temp_dir = work / "place", work / "tmp"
    for folder in (area_dir, temp_dir):
        folder.mkdir()
    tempfile.tempdir = str(temp_dir)
    make_attempt, title = AREAS[area]
    attempt = make_attempt(area_dir)
    counts: Counter[str] = Counter()
    crashes: dict[str, str] = {}
    warm_memory, start = 0.0, time.perf_counter()
    known_threads = set(threading.enumerate())  # threads of the caller, such as a test runner
    before = fuzzing.process_state(known_threads)
    for index in range(inputs):
        if index == min(WARM_UP, inputs // 10):
            warm_memory = fuzzing.resident_mib()
        rng = np.random.default_rng([seed, zlib.crc32(area.encode()), index])
        verdict, message = fuzzing.judge(lambda generator=rng: attempt(generator))
        after = fuzzing.process_state(known_threads)
        changed = [name for name, value in after.items() if value != before[name]]
        before = after
        counts[verdict] += 1
        counts["left"] += bool(changed)
        if verdict == "crashed" or changed:
            crashes.setdefault(
                message.partition(": ")[0], f"{area} {index}: {message} {changed or ''}"
            )
        if (index + 1) % 1000 == 0:
            print(f"{area}: {index + 1} of {inputs}, {dict(counts)}", file=sys.stderr, flush=True)
    num_after_warm_up = inputs - min(WARM_UP, inputs // 10)
    return {
        "area": title,
        "inputs": inputs,
        **{name: counts[name] for name in ("answered", "refused", "crashed", "left")},
        "growth": round(
            (fuzzing.resident_mib() - warm_memory) * 10_000 / max(num_after_warm_up, 1), 1
        ),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "milliseconds": round(1000 * (time.perf_counter() - start) / max(inputs, 1), 1),
        "crashes": list(crashes.values()),
    }


def run_in_process(area: str, inputs: int, seed: int) -> dict[str, Any]:
    """Run one area in a process of its own, which may crash."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        file = Path(folder) / "row.json"
        command = [sys.executable, "-m", "tests.fuzz.reliability_fuzz", "--alone", str(file)]
        command += ["--areas", area, "--inputs", str(inputs), "--seed", str(seed)]
        process = subprocess.run(command, check=False, cwd=folder, env=_environment())
        if not file.exists():
            raise RuntimeError(f"{area}: the process ended with {process.returncode}")
        row: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return row


def _environment() -> dict[str, str]:
    root = str(ROOT)
    return os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": root, "MPLBACKEND": "agg"}


def result(rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the table."""
    total: dict[str, Any] = {
        name: sum(row[name] for row in rows)
        for name in ("inputs", "answered", "refused", "crashed", "left")
    }
    total |= {"area": "all", "growth": None, "peak": max(row["peak"] for row in rows)}
    return {
        "caption": f"Hostile inputs, drawn by the seed {seed}. Answered: the result was checked; "
        "refused: by one line of semattn that says what was expected, or by the given "
        "model or function; crashed: anything else, including warnings and no result "
        "after 30 seconds; left: hooks, modes, threads, files or settings that a call "
        "left "
        "behind. Memory "
        "of the process: growth per 10,000 inputs after a warm-up, and peak. "
        "Made by `python -m tests.fuzz.reliability_fuzz`.",
        "columns": [
            {"key": "area", "title": "area"},
            {"key": "inputs", "title": "inputs", "format": ","},
            {"key": "answered", "title": "answered", "format": ","},
            {"key": "refused", "title": "refused", "format": ","},
            {"key": "crashed", "title": "crashed", "format": ","},
            {"key": "left", "title": "left", "format": ","},
            {"key": "growth", "title": "MiB per 10,000 inputs", "format": ".1f"},
            {"key": "peak", "title": "peak MiB", "format": ","},
        ],
        "rows": [*rows, total],
    }


def main() -> None:
    """Run all areas and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--inputs", type=int, default=110_000, help="number of inputs of all areas together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--areas", nargs="+", choices=AREAS, default=list(AREAS))
    parser.add_argument("--smoke", action="store_true", help="a few inputs per area")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            row = measured(options.areas[0], options.inputs, options.seed, Path(folder))
        write_text(options.alone, json.dumps(row))
        return
    inputs = 1_100 if options.smoke else options.inputs
    rows: dict[str, dict[str, Any]] = {}
    if options.out.exists():
        previous = json.loads(options.out.read_text(encoding="utf-8"))
        rows = {row["area"]: row for row in previous["rows"] if row["area"] != "all"}
    for area in options.areas:
        row = run_in_process(area, -(-inputs // len(AREAS)), options.seed)
        rows[row["area"]] = row
        order = [rows[title] for _, title in AREAS.values() if title in rows]
        write_text(options.out, json.dumps(result(order, options.seed), indent=1) + "\n")
        print({name: value for name, value in row.items() if name != "crashes"}, flush=True)
        print("\n".join(row["crashes"]), flush=True)


if __name__ == "__main__":
    main()
