"""Folders of drawn pictures and masks, and random edits of them, by seed.

Each `run_*` function is one case: a run that was stopped or finished, an edit, the same run again
and a run from scratch in a fresh folder; it returns the two results and the notes of the second.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image

from semattn.utils.processes import Progress

EDITS = (
    "nothing", "picture", "same size", "mask", "add", "remove", "rename", "swap", "copy", "break",
    "touch", "class",
)  # fmt: skip
CLASSES = ("cat", "dog")


class StoppedError(Exception):
    """An interruption."""


@lru_cache(maxsize=1)
def tiny_model() -> torch.nn.Module:
    """Return a small classifier with random weights."""
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=64, num_classes=2).eval()


def draw(file: Path, seed: int, compressed: bool = True) -> None:
    """Write a picture of 80x64 pixels with corners in it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    level = 6 if compressed else 0
    Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(file, compress_level=level)


def draw_mask(file: Path, seed: int) -> None:
    """Write the mask of a picture: a white rectangle."""
    top, left = np.random.default_rng(seed).integers(4, 24, 2)
    mask = np.zeros((64, 80), np.uint8)
    mask[top : top + 24, left : left + 30] = 255
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(file)


def make_data(root: Path, seed: int, count: int = 4) -> Path:
    """Write `images` and `masks` with the same names, in two classes."""
    for number in range(count):
        name = f"{CLASSES[number % 2]}/{number:02}.png"
        draw(root / "images" / name, 1000 * seed + number, compressed=False)
        draw_mask(root / "masks" / name, 1000 * seed + number)
    return root


def edit(root: Path, kind: str, seed: int) -> None:
    """Change a folder of `make_data` in one way."""
    rng = np.random.default_rng(seed)
    names = sorted(path.relative_to(root / "images") for path in (root / "images").rglob("*.png"))
    first, second = (names[number] for number in rng.integers(len(names), size=2))
    fresh = 10_000_000 + seed
    image, mask, other = root / "images" / first, root / "masks" / first, root / "images" / second
    added = f"{CLASSES[seed % 2]}/{rng.integers(100):02}new.png"
    moved = f"{CLASSES[1 - CLASSES.index(first.parts[0])]}/m{first.name}"
    changes: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "picture": lambda: draw(image, fresh),
        "same size": lambda: _draw_silently(image, fresh),
        "mask": lambda: draw_mask(mask, fresh),
        "add": lambda: (draw(root / "images" / added, fresh),
                        draw_mask(root / "masks" / added, fresh)),
        "remove": lambda: (image.unlink(), mask.unlink()),
        "rename": lambda: [file.rename(file.with_name(f"z{file.name}")) for file in (image, mask)],
        "swap": lambda: _swap(image, other),
        "copy": lambda: _copy(root),
        "break": lambda: image.write_bytes(image.read_bytes()[:100]),
        "touch": lambda: os.utime(image),
        "class": lambda: [_move(root / kind, first, moved) for kind in ("images", "masks")],
    }  # fmt: skip
    changes[kind]()


def _draw_silently(image: Path, seed: int) -> None:
    """Draw another picture of as many bytes, and set the time of change of the file back."""
    before = image.stat()
    draw(image, seed, compressed=False)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


def _swap(first: Path, second: Path) -> None:
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])


def _copy(root: Path) -> None:
    """Put a copy of a folder in its place."""
    shutil.copytree(root, root.with_name("copy"))
    shutil.rmtree(root)
    root.with_name("copy").rename(root)


def _move(root: Path, old: Path, new: str) -> None:
    (root / new).parent.mkdir(exist_ok=True)
    (root / old).rename(root / new)


def stop_at(count: int | None) -> Progress:
    """Return a progress function that interrupts after so many images, None for never."""

    def look(stage: str, done: int, total: int | None) -> None:
        if done == count:
            raise StoppedError

    return look


def run_bench(root: Path, out: Path | None, stop: int | None = None, images: int = 99) -> Any:
    """Evaluate two methods on a folder of `make_data`."""
    from semattn.data.masked import EvenSubset, open_masked
    from semattn.evaluation import Setting, evaluate

    return evaluate(
        tiny_model(), EvenSubset(open_masked(f"masks:{root / 'images'},{root / 'masks'}"), images),
        ["attention-rollout", "random"], ["ap", "shuffled-auroc"],
        setting=Setting(steps=2, n_samples=2), classes=CLASSES, folder=out, progress=stop_at(stop),
    )  # fmt: skip


def bench_case(
    folder: Path, kind: str, seed: int, stop: int | None = None, count: int = 4
) -> tuple[Any, Any, list[str]]:
    """Return the results of a run on edited data, of one from scratch, and the notes."""
    root = make_data(folder / "data", seed, count)
    _start(lambda: run_bench(root, folder / "kept", stop))
    edit(root, kind, seed)
    again, notes = _noted(lambda: run_bench(root, folder / "kept"))
    scratch, _ = _noted(lambda: run_bench(root, None))
    return again, scratch, notes


def same_bench(first: Any, second: Any) -> bool:
    """Return whether two evaluations are equal, but for seconds and memory."""
    return (
        np.array_equal(first.values, second.values, equal_nan=True)
        and (first.names, first.right, first.skipped, first.refused)
        == (second.names, second.right, second.skipped, second.refused)
    )  # fmt: skip


def run_analysis(root: Path, partial: Path | None, stop: int | None = None) -> Any:
    """Analyze the pictures of a folder of `make_data`."""
    from semattn.data import list_images
    from semattn.interrelation import analyze

    return analyze(
        tiny_model(), list_images(root / "images"), batch_size=1, pool_size=3, n_null=2,
        n_bootstrap=3, resume_file=partial, progress=stop_at(stop),
    )  # fmt: skip


def analysis_case(
    folder: Path, kind: str, seed: int, stop: int = 3, count: int = 5
) -> tuple[Any, Any, list[str]]:
    """Return an analysis that is resumed after an edit, one from scratch, and the notes.

    `semattn.interrelation.analysis_runner.BATCHES_BETWEEN_SAVES` is to be 1.
    """
    root = make_data(folder / "data", seed, count)
    _start(lambda: run_analysis(root, folder / "part.npz", stop))
    edit(root, kind, seed)
    again, notes = _noted(lambda: run_analysis(root, folder / "part.npz"))
    scratch, _ = _noted(lambda: run_analysis(root, None))
    return again, scratch, notes


def same_analysis(first: Any, second: Any) -> bool:
    """Return whether two analyses are equal to the last bit."""
    arrays, others = first.tally.arrays(), second.tally.arrays()
    return (
        arrays.keys() == others.keys()
        and all(np.array_equal(arrays[name], others[name]) for name in arrays)
        and first.skipped == second.skipped
        and first.manifest == second.manifest
    )


def _start(run: Callable[[], Any]) -> None:
    with suppress(StoppedError):
        run()


def _noted(run: Callable[[], Any]) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = run()
    return result, [str(warning.message) for warning in caught]
