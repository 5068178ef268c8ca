"""Time and memory of ``semattn spurious`` on folders of images.

    python -m benchmarks.studies.cost.search_cost [--images 1000] [--untimed 2000,3000]
        [--work FOLDER]

Each size runs the whole command in a process of its own: the embedded model, compositions of 13
classes as JPEG files, a watermark on 95 % of one class. Seconds are wall-clock seconds, memory is
the peak of the process. Other work may run during the sizes of ``--untimed``, since only their
memory is used. Sizes with a result in --work are not measured again. The result is written to
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

from benchmarks import RESULTS_DIR
from semattn.utils.atomic_files import write_text
from semattn.zoo import cache_dir

from ...datasets.objects_on_scenes import NAMES
from ...datasets.objects_on_scenes.fetch import default_root
from ...datasets.planted_cues import KINDS, PlantedCue
from .measuring import machine

RESULTS = RESULTS_DIR / "spurious_cost.json"
ON, RATE = 12, 0.95


def image_folder(work: Path, count: int) -> Path:
    """Return a folder with one folder per class and `count` images in total."""
    folder = work / f"{count}-images"
    if not folder.exists():
        partial = folder.with_suffix(".part")
        data = PlantedCue(
            default_root(), KINDS[0], ON, split="train", count=count, seed=900, rate=RATE
        )
        for name in NAMES:
            (partial / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            item = data[number]
            Image.fromarray(item.image).save(partial / NAMES[item.label] / f"{number:05}.jpg")
        partial.replace(folder)
    return folder


def measure_command(folder: Path, out: Path, is_timed: bool) -> dict[str, Any]:
    """Return the seconds of one command, if they count, and its peak memory in MiB."""
    path = out / "cost.json"
    if path.exists():
        row: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return row
    command = [sys.executable, "-m", "semattn", "spurious", str(folder), "--out", str(out)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: expected exit status 0, got {process.returncode}")
    summary = json.loads((out / "spurious.json").read_text(encoding="utf-8"))
    row = {
        "seconds": seconds if is_timed else None, "memory": usage.ru_maxrss / 1024,
        "images": summary["images"], "tried": len(summary["cues"]),
        "confirmed": sum(cue["confirmed"] for cue in summary["cues"]), "machine": machine(),
    }  # fmt: skip
    write_text(path, json.dumps(row))
    return row


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", default="1000", help="numbers of images, comma-separated")
    parser.add_argument(
        "--untimed", default="2000,3000", help="numbers of images for which only memory counts"
    )
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-spurious-cost")
    options = parser.parse_args()
    rows = []
    for sizes, is_timed in ((options.images, True), (options.untimed, False)):
        for count in map(int, filter(None, sizes.split(","))):
            out = options.work / f"{count}-result"
            rows.append(measure_command(image_folder(options.work, count), out, is_timed))
            print(rows[-1], file=sys.stderr, flush=True)
    table = {
        "caption": "The whole command `semattn spurious FOLDER`: reading, search, figure and "
        f"report. Embedded model, 257 tokens, 13 classes, {os.cpu_count()} cores, "
        "float32; a dash: not timed, since other work ran at the same time. Made by "
        "`python -m benchmarks.studies.cost.search_cost`.",
        "columns": [
            {"key": "images", "title": "images", "format": "d"},
            {"key": "seconds", "title": "seconds", "format": ".0f"},
            {"key": "memory", "title": "peak memory, MiB", "format": ".0f"},
            {"key": "tried", "title": "cues tried", "format": "d"},
        ],
        "rows": rows,
    }  # fmt: skip
    write_text(RESULTS, json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
