"""Fault injection for audits on Ray: ``python -m tests.fuzz.reliability_ray [--kills 8]``.

The audit of `reliability_audit` runs on clusters of this machine: worker processes, the raylet of a
second node and the driver are killed; the object store is full; a unit ends every process that
computes it. The driver is a process of its own. Then every file is compared with those of one
process without faults. Each case is stored when it ends, and a call with the same ``--work`` goes
on after the last one. The result is written to benchmarks/results/reliability_ray.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import torch

from benchmarks import RESULTS_DIR
from semattn.audit import batch_size
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text

from .reliability_audit import (
    IMAGES,
    Faulty,
    Reference,
    draw_images,
    image_ids,
    list_names,
    run,
)

RESULTS = RESULTS_DIR / "reliability_ray.json"
POISON = 50  # number of the image that ends its process
STORE_MIB = 80  # least object store that Ray starts
UNITS_BETWEEN_KILLS = 3  # finished units between two kills


def drive(options: argparse.Namespace) -> None:
    """Run the audit on a cluster, as the driver that the faults are injected around."""
    model = Faulty()
    if options.poison:
        inputs = prepare(options.source / f"{POISON:04}.png", Preprocessing.of(model)).inputs
        model = Faulty("kills", tuple(image_ids(inputs).tolist()))
    run(options.source, options.out, model, engine="ray", address=options.address, actors=2)


@contextmanager
def driver(source: Path, out: Path, *more: str, address: str = "local") -> Iterator[Any]:
    """Start a driver, and kill it at the end if it still runs."""
    command = [sys.executable, "-m", "tests.fuzz.reliability_ray", "--drive", "--address", address]
    process = subprocess.Popen(
        [*command, "--source", str(source), "--out", str(out), *more], stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def finish(process: Any) -> None:
    """Wait for a driver; raise its last line if it fails."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the driver ended with {process.returncode}: {errors[-2000:]}")


def units_done(out: Path) -> int:
    """Return the number of finished units."""
    return len(list((out / ".audit").glob("unit-*.npz")))


def wait_for_units(process: Any, out: Path, count: int) -> bool:
    """Wait until a number of units is finished; return False if the driver ended before."""
    while process.poll() is None:
        if units_done(out) >= count:
            return True
        time.sleep(0.1)
    return False


def descendants(pid: int) -> dict[int, str]:
    """Return the processes that a process started, with their command lines."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            names[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        parents[int(folder.name)] = int(fields[1])
    found = {pid}
    for _ in range(6):
        found |= {child for child, parent in parents.items() if parent in found}
    return {child: names[child] for child in found - {pid}}


def kill_workers(reference: Reference, work: Path, kills: int) -> dict[str, Any]:
    """Kill worker processes and the counter of attempts, one after each few units."""
    rng, done, row = random.Random(0), 0, dict[str, Any]()
    while done < kills:
        out = work / f"workers-{done}"
        with driver(reference.source_path, out) as process:
            count = 1
            while wait_for_units(process, out, count):
                workers = [pid for pid, name in descendants(process.pid).items()
                           if re.match("ray::.*(Map|Attempts)", name)]  # fmt: skip
                if workers:
                    os.kill(rng.choice(workers), signal.SIGKILL)
                    done += 1
                count = units_done(out) + UNITS_BETWEEN_KILLS
            finish(process)
        row = add(row, compare(reference, "kill -9 of a worker", 0, out))
    return row | {"times": done}


def kill_raylet(reference: Reference, work: Path, kills: int) -> dict[str, Any]:
    """Kill the raylet of the second of two nodes, and add a node again."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    done, row = 0, dict[str, Any]()
    try:
        while done < kills:
            out = work / f"raylet-{done}"
            node = cluster.add_node(num_cpus=2)
            with driver(reference.source_path, out, address=cluster.address) as process:
                count = 2
                while wait_for_units(process, out, count):
                    raylet = node.all_processes["raylet"][0].process
                    os.kill(raylet.pid, signal.SIGKILL)
                    done += 1
                    cluster.worker_nodes.discard(node)
                    node = cluster.add_node(num_cpus=2)
                    count = units_done(out) + 2 * UNITS_BETWEEN_KILLS
                finish(process)
            cluster.remove_node(node)
            row = add(row, compare(reference, "kill -9 of the raylet of a second node", 0, out))
    finally:
        cluster.shutdown()
    return row | {"times": done}


def kill_driver(reference: Reference, work: Path, kills: int) -> dict[str, Any]:
    """Kill the driver, and resume with the same call."""
    rng, done, row = random.Random(1), 0, dict[str, Any]()
    while done < kills:
        out = work / f"driver-{done}"
        for _ in range(3):
            with driver(reference.source_path, out) as process:
                if wait_for_units(process, out, units_done(out) + rng.randint(1, 6)):
                    process.kill()
                    done += 1
                process.wait()
        with driver(reference.source_path, out) as process:
            finish(process)
        row = add(row, compare(reference, "kill -9 of the driver, resumed", 0, out))
    return row | {"times": done}


def fill_object_store(reference: Reference, work: Path, times: int) -> dict[str, Any]:
    """Fill the object store ten times over, and run the audit beside it."""
    import numpy as np
    import ray
    from ray.cluster_utils import Cluster

    out = work / "full"
    size = STORE_MIB * 2**20
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": size}
    )
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        held = [ray.put(np.full(size // 10, number, np.uint8)) for number in range(100)]
        with driver(reference.source_path, out, address=cluster.address) as process:
            finish(process)
        assert all(int(ray.get(part)[-1]) == number for number, part in enumerate(held))
    finally:
        ray.shutdown()
        cluster.shutdown()
    return compare(reference, "the object store is full", times, out)


def poison_unit(reference: Reference, work: Path, times: int) -> dict[str, Any]:
    """Run a model that ends its process on one image: its unit is left out, and no other."""
    from semattn.audit.engines.ray import TRIES

    out = work / "poison"
    with driver(reference.source_path, out, "--poison") as process:
        finish(process)
    skipped = parquet.read_table(out / "skipped.parquet").to_pylist()
    left_out = {row["name"] for row in skipped if "which ended its process" in row["reason"]}
    tables = [
        {row["name"]: row for row in parquet.read_table(folder / "explain.parquet").to_pylist()}
        for folder in (out, reference.out)
    ]
    actual, expected = tables
    of_unit = expected[f"{POISON:04}.png"]["unit"]
    unit = {name for name, row in expected.items() if row["unit"] == of_unit}
    others = {name: row for name, row in expected.items() if name not in unit}
    different = len(left_out ^ unit) + sum(
        actual.get(name) != row for name, row in others.items()
    ) + len(actual.keys() - others.keys())  # fmt: skip
    return {"fault": "an image ends every process: its unit is named and left out",
            "times": TRIES, **count_with(reference, out), "different": different}  # fmt: skip


def count_with(reference: Reference, out: Path) -> dict[str, int]:
    """Count the images that are lost or doubled."""
    return {name: value for name, value in reference.count(out).items() if list_names(out)}


def compare(reference: Reference, fault: str, times: int, out: Path) -> dict[str, Any]:
    """Return a row with the differences from the reference; nothing is left to compute."""
    before = {path: path.stat().st_mtime_ns for path in (out / "maps").iterdir()}
    row = reference.compare(fault, times, out)
    changed = sum(path.stat().st_mtime_ns != time_ for path, time_ in before.items())
    return row | {"different": row["different"] + changed}


def add(total: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """Return the sum of two rows of one fault."""
    sums = {name: total.get(name, 0) + row[name] for name in ("images", "lost", "doubled",
                                                              "different")}  # fmt: skip
    return row | sums


CASES: dict[str, tuple[Callable[[Reference, Path, int], dict[str, Any]], float]] = {
    "workers": (kill_workers, 1.0), "raylet": (kill_raylet, 0.5), "driver": (kill_driver, 0.75),
    "store": (fill_object_store, 0.0), "poison": (poison_unit, 0.0),
}  # fmt: skip


def main() -> None:
    """Run all faults and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("reliability-ray"))
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--drive", action="store_true", help="be the driver of a case")
    parser.add_argument("--source", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--address", default="local")
    parser.add_argument("--poison", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch_size.BATCHES_PER_UNIT = 2
    if options.drive:
        drive(options)
        return
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    image_folder, whole = work / "in", work / "whole"
    if not image_folder.exists():
        draw_images(image_folder)
    reference = Reference(image_folder, whole, run(image_folder, whole).analysis.images)
    rows = []
    for name in options.cases.split(","):
        case, share = CASES[name]
        stored = work / f"{name}.json"
        if not stored.exists():
            start = time.perf_counter()
            row = case(reference, work, max(1, round(share * options.kills)))
            write_text(stored, json.dumps(row) + "\n")
            print(row, f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
        rows.append(json.loads(stored.read_text(encoding="utf-8")))
    write_text(options.out, json.dumps(table(rows), indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the result with its columns."""
    import ray

    titles = {"fault": "fault", "times": "times", "images": "images compared", "lost": "lost",
              "doubled": "doubled", "different": "different"}  # fmt: skip
    return {
        "caption": f"Audits of {IMAGES} synthetic images and 3 broken files in units of 6, by two "
        f"actors of Ray {ray.__version__}, compared byte by byte with one local process without "
        "faults. Lost and doubled: images in neither table, or more than once; different: files "
        "that differ, and for the unit that is left out, images that differ outside it or are not "
        "named. Made by `python -m tests.fuzz.reliability_ray`.",
        "columns": [
            {"key": key, "title": title} | ({} if key == "fault" else {"format": "d"})
            for key, title in titles.items()
        ],
        "rows": rows,
    }


if __name__ == "__main__":
    main()
