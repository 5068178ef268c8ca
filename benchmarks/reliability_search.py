"""A shared search for cues under kill -9, for the table of `benchmarks.reliability_audit`."""

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
BATCH = 6  # so that there are many moments to be killed at
FOUND = "found.npz"

Make = Callable[[], nn.Module]
Fork = Callable[[Callable[[], object]], int]


def pictures() -> list[tuple[np.ndarray, int]]:
    """Smooth noise of three classes; the first has a square in a corner, so that it is tried."""
    made = []
    for number in range(CLASSES * EACH):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
        pixels = np.array(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        if number % CLASSES == 0:
            pixels[-20:, -20:] = (250, 10, 10)
        made.append((pixels, number % CLASSES))
    return made


def search(make: Make, out: Path, process: tuple[int, int] = (0, 1)) -> None:
    """The part of a process; the one that goes on writes what was found."""
    shared = Search(make(), pictures(), batch_size=BATCH, lift=1.5, folder=out)
    if shared.look(process):
        save_discovery(shared.discover(), out / FOUND)


def files(out: Path) -> dict[str, bytes]:
    """All that was kept; hidden files are what was cut short."""
    return {one.name: one.read_bytes() for one in out.iterdir() if not one.name.startswith(".")}


def looked_at(out: Path) -> Counter[int]:
    """How often each image was looked at."""
    count: Counter[int] = Counter()
    for one in out.glob("look-*.npz"):
        with np.load(one, allow_pickle=False) as kept:
            count.update(kept["sources"].tolist())
    return count


def killed(make: Make, fork: Fork, work: Path, kills: int) -> Iterator[dict[str, Any]]:
    """Rows: searches by two processes, both killed at random moments, until one is whole."""
    start = time.perf_counter()
    whole = work / "search"
    search(make, whole)
    seconds = time.perf_counter() - start
    wanted, rng, done, images = files(whole), random.Random(3), 0, len(pictures())
    assert any(name.startswith("trial-") for name in wanted), "nothing was tried"
    while done < kills:
        out, here = work / f"search-{done}", 0
        for _ in range(rng.randint(2, 6)):
            running = [fork(partial(search, make, out, (place, 2))) for place in range(2)]
            time.sleep(rng.uniform(0, seconds))
            for one in running:
                os.kill(one, signal.SIGKILL)
                here += os.WIFSIGNALED(os.waitpid(one, 0)[1])
        done += here
        search(make, out)
        mine, count = files(out), looked_at(out)
        different = [one for one in mine.keys() | wanted.keys() if mine.get(one) != wanted.get(one)]
        yield {
            "fault": "search for cues: kill -9, 2 at once", "times": here, "images": images,
            "lost": images - len(count), "doubled": sum(count.values()) - len(count),
            "different": len(different),
        }  # fmt: skip
        shutil.rmtree(out)
        print(f"{done} of {kills} kills of a search", file=sys.stderr)
