"""Trees of pictures that are edited at random, by seed, while an audit or a search is under way.

`audit_case` and `search_case` run one case each and return what differs from a run from scratch in
a fresh folder: nothing, where kept work is used for the images that it was computed from only.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from semattn.audit import audit, batch_size
from semattn.data import open_source
from semattn.errors import SemattnError
from semattn.images import Preprocessing
from semattn.spurious import Search, save_discovery

SIDE = 32  # pixels: 4x4 patches of 8
OWN = Preprocessing((SIDE, SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ("cat", "dog", "owl")
BROKEN = b"no picture"


@cache
def model() -> nn.Module:
    """Return a small classifier with random weights."""
    torch.manual_seed(0)
    options = {"img_size": SIDE, "patch_size": 8, "num_classes": len(CLASSES)}
    network = timm.create_model("test_vit", **options).eval()
    network.classes = CLASSES
    return network


def draw(file: Path, seed: int) -> None:
    """Write a picture, for class "cat" with a mark; all have the same number of bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8))
    picture = small.resize((SIDE + 4, SIDE), Image.Resampling.BICUBIC)
    if file.parent.name == "cat":
        picture.paste((250, 10, 10), (SIDE - 10, SIDE - 10, SIDE + 4, SIDE))
    picture.save(file, "BMP")


def make_tree(root: Path, seed: int, count: int = 9, folders: int = 3) -> None:
    """Write pictures to class folders."""
    for number in range(count):
        draw(root / CLASSES[number % folders] / f"{number:03}.bmp", 1000 * seed + number)


def pictures(root: Path) -> list[Path]:
    """Return the files of a tree."""
    return sorted(file for file in root.rglob("*") if file.is_file())


def _replace_in_place(root: Path, rng: random.Random) -> None:
    """Write another picture of the same size, and set the time of change back."""
    file = rng.choice(pictures(root))
    before = file.stat()
    draw(file, rng.randrange(2**31))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def _replace(root: Path, rng: random.Random) -> None:
    draw(rng.choice(pictures(root)), rng.randrange(2**31))


def _add(root: Path, rng: random.Random) -> None:
    draw(root / rng.choice(CLASSES) / f"{rng.randrange(100):02}a.bmp", rng.randrange(2**31))


def _remove(root: Path, rng: random.Random) -> None:
    files = pictures(root)
    if len(files) > 3:
        rng.choice(files).unlink()


def _rename(root: Path, rng: random.Random) -> None:
    file = rng.choice(pictures(root))
    file.rename(file.with_name(f"{rng.randrange(100):02}r.bmp"))


def _touch(root: Path, rng: random.Random) -> None:
    os.utime(rng.choice(pictures(root)))


def _swap(root: Path, rng: random.Random) -> None:
    files = pictures(root)
    first, second = rng.choice(files), rng.choice(files)
    if first != second:
        first.rename(root / "swap")
        second.rename(first)
        (root / "swap").rename(second)


def _swap_folders(root: Path, rng: random.Random) -> None:
    """Exchange the names of two class folders."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if len(folders) > 1:
        first, second = rng.sample(folders, 2)
        first.rename(root / "swap")
        second.rename(first)
        (root / "swap").rename(second)


def _break(root: Path, rng: random.Random) -> None:
    rng.choice(pictures(root)).write_bytes(BROKEN)


def _repair(root: Path, rng: random.Random) -> None:
    for file in pictures(root):
        if file.read_bytes() == BROKEN:
            draw(file, rng.randrange(2**31))


def _copy(root: Path, rng: random.Random) -> None:
    """Copy the whole tree: other files with the same content."""
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    shutil.rmtree(root)
    copy.rename(root)


EDITS: dict[str, Callable[[Path, random.Random], None]] = {
    "replace in place": _replace_in_place, "replace": _replace, "add": _add, "remove": _remove,
    "rename": _rename, "touch": _touch, "swap": _swap, "swap class folders": _swap_folders,
    "break": _break, "repair": _repair, "copy": _copy,
}  # fmt: skip


def edit(root: Path, rng: random.Random) -> list[str]:
    """Make up to three random edits; return what they are."""
    kinds = [rng.choice(list(EDITS)) for _ in range(rng.randint(1, 3))]
    for kind in kinds:
        EDITS[kind](root, rng)
    return kinds


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """Raise KeyboardInterrupt before a file would get its name, after so many that did."""
    left, replace = after, Path.replace

    def stop(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    with mock.patch.object(Path, "replace", stop), suppress(KeyboardInterrupt):
        yield


def run_audit(root: Path, out: Path, process: tuple[int, int] = (0, 1)) -> dict[str, bytes]:
    """Audit a tree in units of four images; return every file of the result, and the analysis."""
    source = open_source(root, CLASSES, len(CLASSES))
    with mock.patch.object(batch_size, "BATCHES_PER_UNIT", 2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = audit(
            model(), source, out, batch_size=2, workers=0, preprocessing=OWN, process=process
        )
    files = {
        file.relative_to(out).as_posix(): file.read_bytes()
        for file in out.rglob("*")
        if file.is_file() and not any(part[0] == "." for part in file.relative_to(out).parts)
    }
    if result.analysis is not None:
        files["analysis"] = json.dumps(result.analysis.summary()).encode()
    return files


def run_search(root: Path, out: Path, process: tuple[int, int] = (0, 1)) -> dict[str, bytes]:
    """Search a tree in batches of four images; return the discovery, or the refusal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            search = Search(
                model(), root, class_names=CLASSES, batch_size=4, preprocessing=OWN,
                min_relative_risk=1.0, alpha=0.9, cache_dir=out,
            )  # fmt: skip
            if not search.extract(process):
                return {}
            file = save_discovery(search.discover(), out.with_suffix(".npz"))
        except SemattnError as error:
            return {"refusal": str(error).encode()}
    return {"discovery": file.read_bytes()}


Run = Callable[..., "dict[str, bytes]"]


def case(folder: Path, seed: int, run: Run, count: int, folders: int) -> list[str]:
    """Return the files that differ from a run from scratch, after a random history of edits.

    Parameters
    ----------
    folder : an empty one
    seed : of the tree, the edits, the interruptions and the processes
    run : `run_audit` or `run_search`
    count, folders : as of `make_tree`
    """
    rng, root, out = random.Random(seed), folder / "tree", folder / "kept"
    make_tree(root, seed, count, folders)
    history = []
    for _ in range(rng.randint(1, 3)):
        processes = rng.choice((1, 1, 2, 3))
        with interrupted(rng.randint(0, 40)):
            for place in range(processes):
                run(root, out, (place, processes))
        history += edit(root, rng)
    with interrupted(rng.choice((0, 5, 10, 100))):
        run(root, out)
    resumed, scratch = run(root, out), run(root, folder / "scratch")
    names = sorted(name for name in resumed.keys() | scratch.keys()
                   if resumed.get(name) != scratch.get(name))  # fmt: skip
    return [f"seed {seed}, {', '.join(history)}: {name}" for name in names]


def audit_case(folder: Path, seed: int) -> list[str]:
    """Run one case of an audit of nine pictures in three classes."""
    return case(folder, seed, run_audit, 9, 3)


def search_case(folder: Path, seed: int) -> list[str]:
    """Run one case of a search in eighteen pictures of two classes."""
    return case(folder, seed, run_search, 18, 2)
