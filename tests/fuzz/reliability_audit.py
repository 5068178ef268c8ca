"""Fault injection for audits: ``python -m tests.fuzz.reliability_audit [--kills 50]``.

A small model explains and analyses synthetic images without faults. The same audit is then repeated
with faults: processes killed at random moments, alone and two together, with and without workers;
workers killed; files that must not grow; a damaged archive; and a model that raises, returns NaN or
runs out of memory for some images. A search for cues by two processes is killed in the same way.
Each time the same call resumes, and every file of the result is compared with the reference. The
result is written to benchmarks/results/reliability_audit.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks import RESULTS_DIR
from semattn.audit import audit, batch_size
from semattn.data import open_source
from semattn.utils.atomic_files import write_text

from . import reliability_search

RESULTS = RESULTS_DIR / "reliability_audit.json"
IMAGES, SIZE, SIDE = 120, 3, 64
LIMIT = 40_000  # bytes: greatest size of a file in one of the cases
FAILURE_PERIOD = 17  # the model fails on every 17th image


def draw_images(folder: Path) -> None:
    """Write images with keypoints, and three files that are not images."""
    folder.mkdir()
    for number in range(IMAGES):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (11, 11, 3), dtype=np.uint8))
        small.resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{number:04}.png")
    for number, content in enumerate((b"", b"no picture", b"\x89PNG\r\n\x1a\n")):
        (folder / f"broken-{number}.png").write_bytes(content)


def image_ids(x: Tensor) -> Tensor:
    """Return (B,) a number that identifies each image: from the colour of its central pixel."""
    red, green, blue = x[:, :, SIDE // 2, SIDE // 2].unbind(1)
    return red + 0.1 * green + 0.01 * blue


class Faulty(nn.Module):
    """Small model that fails on the images with some identifiers (see `image_ids`)."""

    def __init__(self, kind: str = "", faulty_ids: tuple[float, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = timm.create_model("test_vit", img_size=SIDE).eval()
        self.pretrained_cfg, self.patch_embed = self.inner.pretrained_cfg, self.inner.patch_embed
        self.kind, self.faulty_ids = kind, torch.tensor(faulty_ids)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, or raise or return the fault."""
        out: Tensor = self.inner(x)
        is_faulty = torch.isin(image_ids(x), self.faulty_ids)
        if self.kind == "NaN":
            return torch.where(is_faulty[:, None], torch.nan, out)
        if self.kind == "no memory for a batch" and len(x) > 1:
            raise torch.OutOfMemoryError("drawn")
        if is_faulty.any() and self.kind == "raises":
            raise RuntimeError("drawn")
        if is_faulty.any() and self.kind == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        return out


def run(source_path: Path, out: Path, model: nn.Module | None = None, **options: Any) -> Any:
    """Run an audit in this process."""
    source = open_source(source_path, (), 1000)
    return audit(model or Faulty(), source, out, batch_size=SIZE, **options)


def result_files(out: Path) -> dict[str, bytes]:
    """Return the result files of an audit; hidden files are partial ones and left out."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def list_names(out: Path) -> list[str]:
    """Return the names of the images in both tables, with repetitions."""
    explained = parquet.read_table(out / "explain.parquet")["name"].to_pylist()
    skipped = parquet.read_table(out / "skipped.parquet").to_pylist()
    return [*explained, *(row["name"] for row in skipped if row["job"] in ("read", "explain"))]


@dataclass(frozen=True)
class Reference:
    """Reference audit without faults: input, result folder, number of analysed images."""

    source_path: Path
    out: Path
    num_analysed: int

    def count(self, out: Path) -> dict[str, int]:
        """Count the images that a result has lost, or has more than once."""
        actual, expected = Counter(list_names(out)), Counter(list_names(self.out))
        return {"images": sum(expected.values()), "lost": sum((expected - actual).values()),
                "doubled": sum((actual - expected).values())}  # fmt: skip

    def compare(self, fault: str, times: int, out: Path) -> dict[str, Any]:
        """Resume the audit in `out` and return a row with its differences from the reference."""
        analysed = run(self.source_path, out).analysis.images
        actual_files, expected_files = result_files(out), result_files(self.out)
        different = [
            name
            for name in actual_files.keys() | expected_files.keys()
            if actual_files.get(name) != expected_files.get(name)
        ]
        return {"fault": fault, "times": times, **self.count(out),
                "different": len(different) + (analysed != self.num_analysed)}  # fmt: skip


def sum_by_fault(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per fault, with the sums of its rows."""
    totals: dict[str, dict[str, Any]] = {}
    for row in rows:
        total = totals.setdefault(row["fault"], {"fault": row["fault"]})
        for name in row.keys() - {"fault"}:
            total[name] = total.get(name, 0) + row[name]
    return [totals[fault] for fault in sorted(totals)]


def fork(call: Callable[[], object]) -> int:
    """Run a call in a child process and return its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        call()
        os._exit(0)
    except BaseException:  # noqa: BLE001 — reported by the exit status
        os._exit(1)


def kill_processes(
    reference: Reference, work: Path, kills: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Kill processes at random moments, then finish the audit."""
    rng, num_kills = random.Random(0), 0
    while num_kills < kills:
        processes, workers = rng.choice(((1, 0), (1, 2), (2, 0), (2, 1)))
        out = work / f"killed-{num_kills}"
        kills_of_case = 0
        for _ in range(rng.randint(2, 6)):
            running = [
                fork(
                    partial(
                        run, reference.source_path, out, process=(index, processes), workers=workers
                    )
                )
                for index in range(processes)
            ]
            time.sleep(rng.uniform(0, seconds))
            for pid in running:
                try:
                    os.killpg(pid, signal.SIGKILL)
                except ProcessLookupError:
                    os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                kills_of_case += os.WIFSIGNALED(status)
        num_kills += kills_of_case
        yield reference.compare(
            f"kill -9, {processes} at once, {workers} workers", kills_of_case, out
        )
        shutil.rmtree(out)
        print(f"{num_kills} of {kills} kills", file=sys.stderr)


def kill_workers(reference: Reference, work: Path, times: int) -> Iterator[dict[str, Any]]:
    """Kill workers while the audit runs; it continues without a restart."""
    out, num_kills = work / "workers", 0
    rng = random.Random(1)
    while num_kills < times:
        pid, kills_of_case = fork(partial(run, reference.source_path, out, workers=2)), 0
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            time.sleep(rng.uniform(0.3, 1.5))
            try:
                tasks = Path(f"/proc/{pid}/task").iterdir()
                workers = [
                    child_pid
                    for task in tasks
                    for child_pid in (task / "children").read_text().split()
                ]
                if workers:
                    os.kill(int(rng.choice(workers)), signal.SIGKILL)
                    kills_of_case += 1
            except OSError:
                continue
        num_kills += kills_of_case
        yield reference.compare("a worker is killed", kills_of_case, out)
        shutil.rmtree(out)


def limit_file_size(reference: Reference, work: Path) -> dict[str, Any]:
    """Limit the size of files, so that the audit fails; it resumes without the limit."""
    out, status = work / "limited", []
    for limit in (200, 2_000, LIMIT):

        def call(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            run(reference.source_path, out)

        _, wait_status = os.waitpid(fork(call), 0)
        status.append(os.waitstatus_to_exitcode(wait_status))
    assert 1 in status
    return reference.compare("files may not grow", len(status), out)


def fail_model(reference: Reference, work: Path, kind: str) -> dict[str, Any]:
    """Run a model that fails on some images: these are listed as skipped, and no others."""
    from semattn.images import Preprocessing, prepare

    preprocessing = Preprocessing.of(Faulty())
    faulty = [f"{number:04}.png" for number in range(0, IMAGES, FAILURE_PERIOD)]
    inputs = torch.cat(
        [prepare(reference.source_path / name, preprocessing).inputs for name in faulty]
    )
    model = Faulty(kind, tuple(image_ids(inputs).tolist()))
    out = work / kind
    run(reference.source_path, out, model)
    rows = parquet.read_table(out / "skipped.parquet").to_pylist()
    skipped = {row["name"] for row in rows if row["job"] == "explain"}
    expected = set() if kind == "no memory for a batch" else set(faulty)
    return {"fault": f"the model: {kind}", "times": len(faulty) if expected else IMAGES,
            **reference.count(out), "different": len(skipped ^ expected)}  # fmt: skip


def truncate_archives(image_folder: Path, work: Path) -> dict[str, Any]:
    """Truncate archives at random positions: complete members are read, the rest is reported."""
    archive = work / "whole.tar"
    with tarfile.open(archive, "w") as stream:
        for path in sorted(image_folder.glob("0*.png"))[:30]:
            member = tarfile.TarInfo(path.name)
            content = path.read_bytes()
            member.size = len(content)
            stream.addfile(member, io.BytesIO(content))
    members = open_source(archive, (), 1000).data.sources
    rng, lost, doubled, silent = random.Random(2), 0, 0, 0
    times = 20
    for number in range(times):
        end = rng.randint(600, members[-1].offset + members[-1].size - 1)
        part_path = work / f"cut-{number}.tar"
        part_path.write_bytes(archive.read_bytes()[:end])
        num_complete = sum(member.offset + member.size <= end for member in members)
        if not num_complete:
            continue
        source = open_source(part_path, (), 1000)
        lost += max(0, num_complete - len(source))
        doubled += max(0, len(source) - num_complete)
        silent += not source.data.broken
        run(part_path, work / f"cut-{number}", jobs=["explain"])
        silent += len(list_names(work / f"cut-{number}")) != num_complete
    return {"fault": "an archive is cut off", "times": times, "images": times * len(members),
            "lost": lost, "doubled": doubled, "different": silent}  # fmt: skip


def main() -> None:
    """Run all faults and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    batch_size.BATCHES_PER_UNIT = 2
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        image_folder, out = work / "in", work / "whole"
        draw_images(image_folder)
        start = time.perf_counter()
        reference = Reference(image_folder, out, run(image_folder, out).analysis.images)
        seconds = time.perf_counter() - start
        rows = sum_by_fault(kill_processes(reference, work, options.kills, seconds))
        rows += sum_by_fault(kill_workers(reference, work, max(2, options.kills // 3)))
        rows.append(limit_file_size(reference, work))
        rows += [
            fail_model(reference, work, kind) for kind in ("raises", "NaN", "no memory for a batch")
        ]
        rows.append(truncate_archives(image_folder, work))
        rows += sum_by_fault(reliability_search.kill_searches(Faulty, fork, work, options.kills))
    result = {
        "caption": f"Audits of {IMAGES} synthetic images and 3 broken files, and searches of "
        f"{len(reliability_search.make_images())} pictures, compared byte by byte with a "
        "reference without faults. Lost and doubled: images in neither table, or more than once; "
        "different: files that differ, or images that are left out without a reason or without a "
        "report. Made by `python -m tests.fuzz.reliability_audit`.",
        "columns": [
            {"key": "fault", "title": "fault"},
            {"key": "times", "title": "times", "format": "d"},
            {"key": "images", "title": "images compared", "format": "d"},
            {"key": "lost", "title": "lost", "format": "d"},
            {"key": "doubled", "title": "doubled", "format": "d"},
            {"key": "different", "title": "different", "format": "d"},
        ],
        "rows": rows,
    }
    write_text(options.out, json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
