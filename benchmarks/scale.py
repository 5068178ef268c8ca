"""What an audit of ImageNet takes: ``python -m benchmarks.scale``.

Reckoned from what `bench_throughput` measured: on two cores, and on one GPU with sixteen. The
result goes to benchmarks/results/scale.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from semattn.utils.atomic_files import write_text

from . import bench_throughput as measured

RESULTS = measured.RESULTS.with_name("scale.json")
ON_GPU = measured.RESULTS.with_name("throughput_gpu.json")
IMAGES = 1_281_167  # ImageNet-1k, training


@dataclass(frozen=True)
class Setup:
    """Machines that are all alike; `cores` and `gpus` are those of one."""

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


def planned(setup: Setup, found: dict[str, Any]) -> dict[str, Any]:
    """A row: what reading and the whole do in a second, the hours, and who is the slower.

    Parameters
    ----------
    setup : the machines
    found : result of `bench_throughput` on the like of them
    """
    rates = {row["way"]: row["rate"] for row in found["rows"]}
    cores = setup.cores / found["machine"]["cores"]  # in machines of those that were measured
    reading = setup.machines * cores * rates[measured.READING]
    processes = setup.machines * max(1, setup.gpus)
    explaining = rates[measured.EXPLAIN] * (processes if setup.gpus else setup.machines * cores)
    rate = min(reading, explaining)
    disk = IMAGES * (found["needs"]["row_bytes"] + found["needs"]["map_bytes"]) / 2**20
    return {
        "setup": setup.name, "reading": reading, "explaining": explaining,
        "hours": IMAGES / rate / 3600,
        "slower": "explaining" if rate == explaining else "reading, SIFT",
        "memory": processes / setup.machines * found["needs"]["peak_mib"] / 1024,
        "disk": (disk + processes * found["needs"]["sums_mib"]) / 1024,
    }  # fmt: skip


def main() -> None:
    """Reckon and write."""
    cpu, gpu = (json.loads(p.read_text(encoding="utf-8")) for p in (measured.RESULTS, ON_GPU))
    for size in ("row_bytes", "map_bytes"):  # on the GPU, pictures came over and over
        gpu["needs"][size] = cpu["needs"][size]
    made = {
        "caption": f"Explaining the {IMAGES:,} training images of ImageNet-1k with the embedded "
        f"model, {cpu['needs']['gflop']:.0f} GFLOP an image; memory of the processes of a machine, "
        "less that of readers. Reckoned from what `bench_throughput` measured, as if cores, GPUs "
        "and machines added up: two cores without a GPU, and one GPU with sixteen. Made by "
        "`python -m benchmarks.scale`.",
        "columns": [
            {"key": "setup", "title": "machines"},
            {"key": "reading", "title": "reading and SIFT, images a second", "format": ",.0f"},
            {"key": "explaining", "title": "explaining, images a second", "format": ",.0f"},
            {"key": "hours", "title": "hours", "format": ".2g"},
            {"key": "slower", "title": "slower half"},
            {"key": "memory", "title": "memory, GiB", "format": ",.1f"},
            {"key": "disk", "title": "results, GiB", "format": ",.1f"},
        ],
        "rows": [planned(setup, gpu if setup.gpus else cpu) for setup in SETUPS],
    }
    write_text(RESULTS, json.dumps(made, indent=1) + "\n")
    for row in made["rows"]:
        print(f"{row['setup']:<36} {row['hours']:.2g} h, {row['slower']}")


if __name__ == "__main__":
    main()
