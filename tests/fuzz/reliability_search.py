"""Shared search for cues with kill -9, for the table of `tests.fuzz.reliability_audit`."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from semattn.spurious import Search, save_discovery

CLASSES, EACH, SIDE = 3, 24, 72
BATCH = 6  # small, so that there are many moments for a kill
RESULT_NAME = "found.npz"

MakeModel = Callable[[], nn.Module]
Fork = Callable[[Callable[[], object]], int]


def make_images() -> list[tuple[np.ndarray, int]]:
    """Return smooth noise of three classes; the first has a coloured square, a candidate cue."""
    labelled = []
    for number in range(CLASSES * EACH):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
        pixels = np.array(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        if number % CLASSES == 0:
            pixels[-20:, -20:] = (250, 10, 10)
        labelled.append((pixels, number % CLASSES))
    return labelled


def run_search(make_model: MakeModel, out: Path, process: tuple[int, int] = (0, 1)) -> None:
    """Run the part of one process; the last one writes the result."""
    shared = Search(
        make_model(), make_images(), batch_size=BATCH, min_relative_risk=1.5, cache_dir=out
    )
    if shared.extract(process):
        save_discovery(shared.discover(), out / RESULT_NAME)


def stored_files(out: Path) -> dict[str, bytes]:
    """Return all stored files; hidden files are partial ones and left out."""
    return {path.name: path.read_bytes() for path in out.iterdir() if not path.name.startswith(".")}


def times_looked_at(out: Path) -> Counter[int]:
    """Return how often each image was processed."""
    counts: Counter[int] = Counter()
    for path in out.glob("features-*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            counts.update(arrays["sources"].tolist())
    return counts


def kill_searches(
    make_model: MakeModel, fork: Fork, work: Path, kills: int
) -> Iterator[dict[str, Any]]:
    """Yield rows: searches by two processes, both killed at random moments, then finished."""
    start = time.perf_counter()
    reference_dir = work / "search"
    run_search(make_model, reference_dir)
    seconds = time.perf_counter() - start
    reference_files, rng, num_kills, num_images = (
        stored_files(reference_dir),
        random.Random(3),
        0,
        len(make_images()),
    )
    assert any(name.startswith("intervention-") for name in reference_files), (
        "no candidate was tested"
    )
    while num_kills < kills:
        out, kills_of_case = work / f"search-{num_kills}", 0
        for _ in range(rng.randint(2, 6)):
            running = [fork(partial(run_search, make_model, out, (index, 2))) for index in range(2)]
            time.sleep(rng.uniform(0, seconds))
            for pid in running:
                os.kill(pid, signal.SIGKILL)
                kills_of_case += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        num_kills += kills_of_case
        run_search(make_model, out)
        actual_files, counts = stored_files(out), times_looked_at(out)
        different = [
            name
            for name in actual_files.keys() | reference_files.keys()
            if actual_files.get(name) != reference_files.get(name)
        ]
        yield {
            "fault": "search for cues: kill -9, 2 at once", "times": kills_of_case,
            "images": num_images,
            "lost": num_images - len(counts), "doubled": sum(counts.values()) - len(counts),
            "different": len(different),
        }  # fmt: skip
        shutil.rmtree(out)
        print(f"{num_kills} of {kills} kills of a search", file=sys.stderr)
