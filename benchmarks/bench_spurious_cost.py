"""Time and memory of ``semattn spurious`` on folders of images.

    python -m benchmarks.bench_spurious_cost [--images 1000] [--untimed 2000,3000] [--work FOLDER]

Each size is the whole command, as a user calls it, in a process of its own: the embedded model,
compositions of 13 classes as JPEG files, a watermark on 95 % of one class. Seconds are wall-clock,
memory is the peak of the process. Sizes after ``--untimed`` may run beside other work, since only
their memory counts. What --work has measured is not measured again. The result goes to
benchmarks/results/spurious_cost.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from .measuring import machine
from .objects_on_scenes import NAMES
from .objects_on_scenes.fetch import default_root
from .planted_cues import KINDS, PlantedCue

RESULTS = Path(__file__).parent / "results" / "spurious_cost.json"
ON, RATE = 12, 0.95


def folder_of(work: Path, count: int) -> Path:
    """A folder a class with so many pictures in all, drawn once."""
    folder = work / f"{count}-images"
    if not folder.exists():
        partial = folder.with_suffix(".part")
        data = PlantedCue(
            default_root(), KINDS[0], ON, split="train", count=count, seed=900, rate=RATE
        )
        for name in NAMES:
            (partial / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            one = data[number]
            Image.fromarray(one.image).save(partial / NAMES[one.label] / f"{number:05}.jpg")
        partial.replace(folder)
    return folder


def measured(folder: Path, out: Path, timed: bool) -> dict[str, Any]:
    """One command: seconds, where they count, and the peak of its memory in MiB."""
    kept = out / "cost.json"
    if kept.exists():
        row: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return row
    command = [sys.executable, "-m", "semattn", "spurious", str(folder), "--out", str(out)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: expected it to end well, got {process.returncode}")
    told = json.loads((out / "spurious.json").read_text(encoding="utf-8"))
    row = {
        "seconds": seconds if timed else None, "memory": usage.ru_maxrss / 1024,
        "images": told["images"], "tried": len(told["cues"]),
        "confirmed": sum(one["confirmed"] for one in told["cues"]), "machine": machine(),
    }  # fmt: skip
    write_text(kept, json.dumps(row))
    return row


def main() -> None:
    """Every size, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", default="1000", help="sizes, with commas")
    parser.add_argument("--untimed", default="2000,3000", help="sizes of which memory counts")
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-spurious-cost")
    options = parser.parse_args()
    rows = []
    for sizes, timed in ((options.images, True), (options.untimed, False)):
        for count in map(int, filter(None, sizes.split(","))):
            out = options.work / f"{count}-result"
            rows.append(measured(folder_of(options.work, count), out, timed))
            print(rows[-1], file=sys.stderr, flush=True)
    made = {
        "caption": "`semattn spurious FOLDER`, whole: reading the files, the search, the figure "
        f"and the page. Embedded model, 257 tokens, 13 classes, {os.cpu_count()} cores, float32; a "
        "dash: other work ran beside it. Made by `python -m benchmarks.bench_spurious_cost`.",
        "columns": [
            {"key": "images", "title": "images", "format": "d"},
            {"key": "seconds", "title": "seconds", "format": ".0f"},
            {"key": "memory", "title": "peak memory, MiB", "format": ".0f"},
            {"key": "tried", "title": "cues tried", "format": "d"},
        ],
        "rows": rows,
    }  # fmt: skip
    write_text(RESULTS, json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
