"""What an audit of ImageNet takes: ``python -m benchmarks.scale``.

Reckoned from what `bench_throughput` measured on the processor; what a GPU does in a second is
assumed, and stands in the caption. The result goes to benchmarks/results/scale.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from semattn.files import write_text

from . import bench_throughput as measured

RESULTS = measured.RESULTS.with_name("scale.json")
IMAGES = 1_281_167  # ImageNet-1k, training
EFFECTIVE = 30e12  # operations a second of one GPU, assumed


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
    Setup("1 GPU, 32 cores", 1, 32, 1),
    Setup("8 GPUs, 64 cores", 1, 64, 8),
    Setup("64 machines of 8 GPUs and 64 cores", 64, 64, 8),
)


def planned(setup: Setup, found: dict[str, Any]) -> dict[str, Any]:
    """A row: what each half does in a second, the hours of the slower one, and who that is.

    Parameters
    ----------
    setup : the machines
    found : result of `bench_throughput`, on a processor
    """
    rates = {row["way"]: row["rate"] for row in found["rows"]}
    of_a_core = 1 / found["machine"]["cores"]
    cores = setup.machines * setup.cores
    reading = rates[measured.READING] * of_a_core * cores
    if setup.gpus:
        model = setup.machines * setup.gpus * EFFECTIVE / (found["needs"]["gflop"] * 1e9)
        rate = min(reading, model)
    else:  # the rate of the audit has the reading in it
        model = rate = rates[measured.EXPLAIN] * of_a_core * cores
    processes = setup.machines * max(1, setup.gpus)
    disk = IMAGES * (found["needs"]["row_bytes"] + found["needs"]["map_bytes"]) / 2**20
    return {
        "setup": setup.name, "reading": reading, "model": model,
        "hours": IMAGES / rate / 3600, "slower": "model" if rate == model else "reading, SIFT",
        "memory": processes / setup.machines * found["needs"]["peak_mib"] / 1024,
        "disk": (disk + processes * found["needs"]["sums_mib"]) / 1024,
    }  # fmt: skip


def main() -> None:
    """Reckon and write."""
    found = json.loads(measured.RESULTS.read_text(encoding="utf-8"))
    made = {
        "caption": f"Explaining the {IMAGES:,} training images of ImageNet-1k with the embedded "
        f"model, {found['needs']['gflop']:.0f} GFLOP an image; memory a machine. Reckoned from "
        "what `bench_throughput` measured on 2 cores, as if cores and machines added up. A GPU is "
        f"assumed to do {EFFECTIVE / 1e12:.0f} TFLOP a second; none was measured. Made by "
        "`python -m benchmarks.scale`.",
        "columns": [
            {"key": "setup", "title": "machines"},
            {"key": "reading", "title": "reading and SIFT, images a second", "format": ",.0f"},
            {"key": "model", "title": "model, images a second", "format": ",.0f"},
            {"key": "hours", "title": "hours", "format": ",.2f"},
            {"key": "slower", "title": "slower half"},
            {"key": "memory", "title": "memory, GiB", "format": ",.1f"},
            {"key": "disk", "title": "results, GiB", "format": ",.1f"},
        ],
        "rows": [planned(setup, found) for setup in SETUPS],
    }
    write_text(RESULTS, json.dumps(made, indent=1) + "\n")
    for row in made["rows"]:
        print(f"{row['setup']:<36} {row['hours']:.2f} h, {row['slower']}")


if __name__ == "__main__":
    main()
