"""Estimated cost of an audit of ImageNet: ``python -m benchmarks.studies.cost.scale``.

Extrapolated from the results of `bench_throughput`, on two cores and on one GPU with sixteen cores.
The result is written to benchmarks/results/scale.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from semattn.utils.atomic_files import write_text

from . import throughput as measured

RESULTS = measured.RESULTS.with_name("scale.json")
ON_GPU = measured.RESULTS.with_name("throughput_gpu.json")
IMAGES = 1_281_167  # ImageNet-1k, training


@dataclass(frozen=True)
class Setup:
    """Identical machines; `cores` and `gpus` are those of one machine."""

    name: str
    machines: int
    cores: int
    gpus: int


SETUPS = (
    Setup("2 cores", 1, 2, 0),
    Setup("64 machines of 2 cores", 64, 2, 0),
    Setup("64 machines of 32 cores", 64, 32, 0),
    Setup("1 GPU, 8 cores", 1, 8, 1),
    Setup("1 GPU, 16 cores", 1, 16, 1),
    Setup("8 GPUs, 64 cores", 1, 64, 8),
    Setup("8 GPUs, 128 cores", 1, 128, 8),
    Setup("64 machines of 8 GPUs and 64 cores", 64, 64, 8),
)


def plan(setup: Setup, throughput: dict[str, Any]) -> dict[str, Any]:
    """Return one row: the rates of reading and explaining, the hours, and the slower stage.

    Parameters
    ----------
    setup : the machines
    throughput : result of `bench_throughput` on a machine of the same kind
    """
    rates = {row["way"]: row["rate"] for row in throughput["rows"]}
    cores = setup.cores / throughput["machine"]["cores"]  # relative to the measured machine
    reading = setup.machines * cores * rates[measured.READING]
    processes = setup.machines * max(1, setup.gpus)
    explaining = rates[measured.EXPLAIN] * (processes if setup.gpus else setup.machines * cores)
    rate = min(reading, explaining)
    disk = IMAGES * (throughput["needs"]["row_bytes"] + throughput["needs"]["map_bytes"]) / 2**20
    return {
        "setup": setup.name, "reading": reading, "explaining": explaining,
        "hours": IMAGES / rate / 3600,
        "slower": "explaining" if rate == explaining else "reading, SIFT",
        "memory": processes / setup.machines * throughput["needs"]["peak_mib"] / 1024,
        "disk": (disk + processes * throughput["needs"]["sums_mib"]) / 1024,
    }  # fmt: skip


def main() -> None:
    """Estimate and write."""
    cpu, gpu = (json.loads(path.read_text(encoding="utf-8")) for path in (measured.RESULTS, ON_GPU))
    for size in ("row_bytes", "map_bytes"):  # the GPU run repeated its images
        gpu["needs"][size] = cpu["needs"][size]
    result = {
        "caption": f"Explaining the {IMAGES:,} training images of ImageNet-1k with the embedded "
        f"model, {cpu['needs']['gflop']:.0f} GFLOP an image; memory of the processes of a "
        "machine, without data-loading workers. Extrapolated from `bench_throughput`, assuming "
        "that cores, GPUs "
        "and machines scale linearly: two cores without a GPU, and one GPU with sixteen. Made by "
        "`python -m benchmarks.studies.cost.scale`.",
        "columns": [
            {"key": "setup", "title": "machines"},
            {"key": "reading", "title": "reading and SIFT, images per second", "format": ",.0f"},
            {"key": "explaining", "title": "explaining, images per second", "format": ",.0f"},
            {"key": "hours", "title": "hours", "format": ".3g"},
            {"key": "slower", "title": "slower stage"},
            {"key": "memory", "title": "memory, GiB", "format": ",.1f"},
            {"key": "disk", "title": "results, GiB", "format": ",.1f"},
        ],
        "rows": [plan(setup, gpu if setup.gpus else cpu) for setup in SETUPS],
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    for row in result["rows"]:
        print(f"{row['setup']:<36} {row['hours']:.2g} h, {row['slower']}")


if __name__ == "__main__":
    main()
