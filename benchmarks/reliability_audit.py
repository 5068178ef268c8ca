"""Audits under faults: ``python -m benchmarks.reliability_audit [--kills 50]``.

A small model explains and analyses drawn pictures, undisturbed; then again and again while
processes are killed at random moments, alone and two together, with and without workers; while
workers are killed; with files that may not grow; with a damaged archive; and with a model that
raises, answers NaN or runs out of memory on some images. A search for cues by two processes is
killed likewise. Each time the same call goes on, and every file of the result is held against the
undisturbed one. The result goes to benchmarks/results/reliability_audit.json.
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

from semattn.audit import audit, units
from semattn.data import open_source
from semattn.utils.atomic_files import write_text

from . import reliability_search

RESULTS = Path(__file__).parent / "results" / "reliability_audit.json"
IMAGES, SIZE, SIDE = 120, 3, 64
LIMIT = 40_000  # bytes: a file that may not grow further
EVERY = 17  # which images the model fails on


def draw(folder: Path) -> None:
    """Pictures with keypoints, and three files that are none."""
    folder.mkdir()
    for number in range(IMAGES):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (11, 11, 3), dtype=np.uint8))
        small.resize((80, 72), Image.Resampling.BICUBIC).save(folder / f"{number:04}.png")
    for number, content in enumerate((b"", b"no picture", b"\x89PNG\r\n\x1a\n")):
        (folder / f"broken-{number}.png").write_bytes(content)


def middle(x: Tensor) -> Tensor:
    """(B,) a number that says which image it is: of the colours of its pixel in the middle."""
    red, green, blue = x[:, :, SIDE // 2, SIDE // 2].unbind(1)
    return red + 0.1 * green + 0.01 * blue


class Faulty(nn.Module):
    """A small model that fails on images whose middle (see `middle`) is one of some."""

    def __init__(self, kind: str = "", middles: tuple[float, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = timm.create_model("test_vit", img_size=SIDE).eval()
        self.pretrained_cfg, self.patch_embed = self.inner.pretrained_cfg, self.inner.patch_embed
        self.kind, self.middles = kind, torch.tensor(middles)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or the fault."""
        out: Tensor = self.inner(x)
        hit = torch.isin(middle(x), self.middles)
        if self.kind == "NaN":
            return torch.where(hit[:, None], torch.nan, out)
        if self.kind == "no memory for a batch" and len(x) > 1:
            raise torch.OutOfMemoryError("drawn")
        if hit.any() and self.kind == "raises":
            raise RuntimeError("drawn")
        return out


def run(given: Path, out: Path, model: nn.Module | None = None, **more: Any) -> Any:
    """An audit in this process."""
    source = open_source(given, (), 1000)
    return audit(model or Faulty(), source, out, batch_size=SIZE, **more)


def files(out: Path) -> dict[str, bytes]:
    """What an audit leaves for its user; hidden files are what was cut short."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def names(out: Path) -> list[str]:
    """The images of both tables, as often as they stand there."""
    explained = parquet.read_table(out / "explain.parquet")["name"].to_pylist()
    skipped = parquet.read_table(out / "skipped.parquet").to_pylist()
    return [*explained, *(row["name"] for row in skipped if row["job"] in ("read", "explain"))]


@dataclass(frozen=True)
class Undisturbed:
    """The audit that others are held against: of `given`, in `out`, with so many analysed."""

    given: Path
    out: Path
    analysed: int

    def counted(self, out: Path) -> dict[str, int]:
        """Images that a result lost, or has more than once."""
        count, wanted = Counter(names(out)), Counter(names(self.out))
        return {"images": sum(wanted.values()), "lost": sum((wanted - count).values()),
                "doubled": sum((count - wanted).values())}  # fmt: skip

    def held(self, fault: str, times: int, out: Path) -> dict[str, Any]:
        """A row: the audit in `out` goes on to its end; what of it differs."""
        analysed = run(self.given, out).analysis.images
        mine, theirs = files(out), files(self.out)
        different = [one for one in mine.keys() | theirs.keys() if mine.get(one) != theirs.get(one)]
        return {"fault": fault, "times": times, **self.counted(out),
                "different": len(different) + (analysed != self.analysed)}  # fmt: skip


def added(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a fault, with the sums of all its rows."""
    made: dict[str, dict[str, Any]] = {}
    for row in rows:
        one = made.setdefault(row["fault"], {"fault": row["fault"]})
        for name in row.keys() - {"fault"}:
            one[name] = one.get(name, 0) + row[name]
    return [made[fault] for fault in sorted(made)]


def child(call: Callable[[], object]) -> int:
    """Run a call in a process of its own; its number."""
    number = os.fork()
    if number:
        return number
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        call()
        os._exit(0)
    except BaseException:  # noqa: BLE001 — a process that ends must say so
        os._exit(1)


def killed(whole: Undisturbed, work: Path, kills: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Processes that are killed at random moments, until the audit is done."""
    rng, done = random.Random(0), 0
    while done < kills:
        processes, workers = rng.choice(((1, 0), (1, 2), (2, 0), (2, 1)))
        out = work / f"killed-{done}"
        here = 0
        for _ in range(rng.randint(2, 6)):
            running = [
                child(partial(run, whole.given, out, process=(place, processes), workers=workers))
                for place in range(processes)
            ]
            time.sleep(rng.uniform(0, seconds))
            for one in running:
                try:
                    os.killpg(one, signal.SIGKILL)
                except ProcessLookupError:
                    os.kill(one, signal.SIGKILL)
                _, status = os.waitpid(one, 0)
                here += os.WIFSIGNALED(status)
        done += here
        yield whole.held(f"kill -9, {processes} at once, {workers} workers", here, out)
        shutil.rmtree(out)
        print(f"{done} of {kills} kills", file=sys.stderr)


def workers_killed(whole: Undisturbed, work: Path, times: int) -> Iterator[dict[str, Any]]:
    """Workers are killed while the audit runs; it goes on by itself."""
    out, done = work / "workers", 0
    rng = random.Random(1)
    while done < times:
        number, here = child(partial(run, whole.given, out, workers=2)), 0
        while os.waitpid(number, os.WNOHANG)[0] == 0:
            time.sleep(rng.uniform(0.3, 1.5))
            try:
                tasks = Path(f"/proc/{number}/task").iterdir()
                workers = [one for task in tasks for one in (task / "children").read_text().split()]
                if workers:
                    os.kill(int(rng.choice(workers)), signal.SIGKILL)
                    here += 1
            except OSError:
                continue
        done += here
        yield whole.held("a worker is killed", here, out)
        shutil.rmtree(out)


def limited(whole: Undisturbed, work: Path) -> dict[str, Any]:
    """No file may grow: the call fails with a word, and goes on when there is room again."""
    out, status = work / "limited", []
    for limit in (200, 2_000, LIMIT):

        def call(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            run(whole.given, out)

        _, ended = os.waitpid(child(call), 0)
        status.append(os.waitstatus_to_exitcode(ended))
    assert 1 in status
    return whole.held("files may not grow", len(status), out)


def failing(whole: Undisturbed, work: Path, kind: str) -> dict[str, Any]:
    """A model that fails on some images: those are named, and no others."""
    from semattn.images import Preprocessing, prepare

    wanted = Preprocessing.of(Faulty())
    bad = [f"{number:04}.png" for number in range(0, IMAGES, EVERY)]
    inputs = torch.cat([prepare(whole.given / name, wanted).inputs for name in bad])
    model = Faulty(kind, tuple(middle(inputs).tolist()))
    out = work / kind
    run(whole.given, out, model)
    rows = parquet.read_table(out / "skipped.parquet").to_pylist()
    left = {row["name"] for row in rows if row["job"] == "explain"}
    expected = set() if kind == "no memory for a batch" else set(bad)
    return {"fault": f"the model: {kind}", "times": len(bad) if expected else IMAGES,
            **whole.counted(out), "different": len(left ^ expected)}  # fmt: skip


def cut(given: Path, work: Path) -> dict[str, Any]:
    """Archives cut off at random places: what comes before is there, and the rest is named."""
    whole = work / "whole.tar"
    with tarfile.open(whole, "w") as made:
        for path in sorted(given.glob("0*.png"))[:30]:
            about = tarfile.TarInfo(path.name)
            content = path.read_bytes()
            about.size = len(content)
            made.addfile(about, io.BytesIO(content))
    every = open_source(whole, (), 1000).data.sources
    rng, lost, doubled, silent = random.Random(2), 0, 0, 0
    times = 20
    for number in range(times):
        end = rng.randint(600, every[-1].offset + every[-1].size - 1)
        part = work / f"cut-{number}.tar"
        part.write_bytes(whole.read_bytes()[:end])
        there = sum(one.offset + one.size <= end for one in every)
        if not there:
            continue
        found = open_source(part, (), 1000)
        lost += max(0, there - len(found))
        doubled += max(0, len(found) - there)
        silent += not found.broken
        run(part, work / f"cut-{number}", jobs=["explain"])
        silent += len(names(work / f"cut-{number}")) != there
    return {"fault": "an archive is cut off", "times": times, "images": times * len(every),
            "lost": lost, "doubled": doubled, "different": silent}  # fmt: skip


def main() -> None:
    """Run all faults and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    units.BATCHES = 2
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given, out = work / "in", work / "whole"
        draw(given)
        start = time.perf_counter()
        whole = Undisturbed(given, out, run(given, out).analysis.images)
        seconds = time.perf_counter() - start
        rows = added(killed(whole, work, options.kills, seconds))
        rows += added(workers_killed(whole, work, max(2, options.kills // 3)))
        rows.append(limited(whole, work))
        rows += [failing(whole, work, kind) for kind in ("raises", "NaN", "no memory for a batch")]
        rows.append(cut(given, work))
        rows += added(reliability_search.killed(Faulty, child, work, options.kills))
    made = {
        "caption": f"Audits of {IMAGES} drawn pictures and 3 broken files, and searches of "
        f"{len(reliability_search.pictures())} pictures, held against one left alone, file by "
        "file, byte by byte. Lost and doubled: images that stand in neither table, or more than "
        "once; different: files that differ, or images that are left out without need or without "
        "a word. Made by `python -m benchmarks.reliability_audit`.",
        "columns": [
            {"key": "fault", "title": "fault"},
            {"key": "times", "title": "times", "format": "d"},
            {"key": "images", "title": "images held against", "format": "d"},
            {"key": "lost", "title": "lost", "format": "d"},
            {"key": "doubled", "title": "doubled", "format": "d"},
            {"key": "different", "title": "different", "format": "d"},
        ],
        "rows": rows,
    }
    write_text(options.out, json.dumps(made, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
