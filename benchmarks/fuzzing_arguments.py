"""The area of hostile command lines: odd options, names that are markup, paths that are tricks."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn
from typer.main import get_command

from semattn import zoo
from semattn.cli.main import app, main

from .fuzzing import NAMES, Chance, Refused, Try, pick
from .fuzzing_archives import picture, tar, tree
from .fuzzing_files import forgery, swollen
from .fuzzing_images import encoded

CLASSES = ("<b>cat</b>", "[red]dog[/]", "\x1b[31mowl", "</script><script>alert(1)</script>", "x\\")
COMMANDS = ("explain", "compare", "analyze", "prompt", "spurious", "audit", "models", "doctor")
WHOLE = 0.004  # of command lines: what may run to its end, which takes a second

WARMING = (
    "doctor",
    "explain picture.png --out out",
    "analyze picture.png --out out",
    "prompt picture.png --out out",
    "compare picture.png --methods grad-cam,integrated-gradients --out out",
    "audit list.txt --workers 0 --jobs explain,analyze,spurious --out out",
)

NUMERIC = ("0", "1", "-1", "3", "1e400", "nan", "inf", "-inf", "9" * 5000, "²", "٣", "1_0", "0x1f",
           "", " ", "1.5.2", "999999999999")  # fmt: skip
VALUES: dict[str, Sequence[str]] = {
    "--model": ("vit_tiny_patch16_224", "resnet50", "nothing", "hf-hub:a/b", "../x", *NAMES),
    "--checkpoint": ("weights.pt", "bomb.pt", "picture.png", ".", "missing"),
    "--classes": ("classes.txt", "few.txt", "picture.png", ".", "missing"),
    "--target": ("0", "4", "5", "cat", *CLASSES),
    "--method": ("raw-attention", "random", "rolout", "lime"),
    "--methods": ("random,center", "random,random", ",", "x,", "random,x", ",,,"),
    "--density": ("count", "uniform", "cuont", "other"),
    "--detector": ("sift", "sirf"),
    "--layers": ("all", "0", "1-0", "0-99999999999", "0,0", "a-b", "-1", "6-", "last-half", "²"),
    "--queries": ("class", "all", "auto", "nobody"),
    "--growth": ("0", "0.5", "1", "-0.1"),
    "--refine": ("none", "guided", "superpixels", "x"),
    "--device": ("cpu", "cuda", "cuda:99", "mps", "meta", "tpu", "cpu:7"),
    "--out": ("out", "picture.png", "picture.png/x", "loop", "nowhere", "/dev/null", "/proc/x",
              "a/b"),
    "--top": ("1", "5", "99999"),
    "--region": ("0,0,9,9", "1,2,3", "points=1,1", "points=1;2", "polygon=0,0;9,0;9,9", "polygon=",
                 "points=nan,nan", "1e9,1e9,2e9,2e9", "9,9,0,0", "picture.png", "inf,0,1,1", "=",
                 ";"),
    "--strength": ("0", "1,2", "1,,2", "nan", "1e9", "a"),
    "--jobs": ("explain", "explain,analyze", "explode", ",", "explain,explain"),
    "--process": ("0/1", "1/1", "-1/2", "0/0", "a/b", "²/³", "0/999999999999"),
    "--draws": ("2", "1"), "--batch-size": ("1", "0"), "--seed": ("0", "5"), "--workers": ("0",),
    "--level": ("0.05", "0", "1"), "--lift": ("2", "0"), "--most": ("3", "0"), "--nothing": ("x",),
    "--search": ("0", "cat,dog"), "--json": ("x",),
}  # fmt: skip
FLAGS = ("--random-weights", "--no-report", "--debgu", "--away", "--help", "--version", "-x", "--")


KNOWN = {
    name: tuple(sorted(set(VALUES) & {one for option in command.params for one in option.opts}))
    for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
}


def stocked(root: Path, rng: Chance, every: Sequence[bytes]) -> None:
    """A folder with pictures, and with what is none."""
    (root / "picture.png").write_bytes(picture(rng))
    (root / "weights.pt").write_bytes(forgery(rng, root / "ran"))
    (root / "bomb.pt").write_bytes(forgery(rng, root / "ran"))
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    (root / "few.txt").write_text("cat\n\x1b[2J\n", encoding="utf-8")
    (root / "loop").symlink_to(root / "loop")
    (root / "nowhere").symlink_to(root / "missing" / "missing")
    os.mkfifo(root / "pipe")
    for one in NAMES:
        place = root / f"{one.replace('/', '_').replace(chr(0), '_')[:40]}.png"
        with contextlib.suppress(OSError):
            place.write_bytes(picture(rng) if rng.random() < 0.3 else pick(rng, every))
    (root / "a.tar").write_bytes(tar(rng))


def names_in(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(one.name for one in folder.iterdir())


def drawn(rng: Chance, root: Path) -> list[str]:
    """A command line, of which something is likely to be wrong."""
    command = pick(rng, COMMANDS) if rng.random() < 0.97 else pick(rng, NAMES)
    line = [command]
    if rng.random() < 0.95:
        there = names_in(root)
        line.append(pick(rng, there) if rng.random() < 0.7 else pick(rng, NAMES))
    for _ in range(int(rng.integers(0, 5))):
        known = KNOWN.get(command, ())
        option = pick(rng, known) if known and rng.random() < 0.9 else pick(rng, sorted(VALUES))
        given = VALUES[option] if rng.random() < 0.7 else pick(rng, (NUMERIC, NAMES))
        line += [option, pick(rng, given)] if rng.random() < 0.97 else [option]
    if rng.random() < 0.2:
        line.append(pick(rng, FLAGS))
    return line


def hurried(rng: Chance, line: list[str]) -> list[str]:
    """The same, but made to be refused at the last, so that nothing long is begun."""
    if rng.random() < WHOLE or line[0] in ("models", "doctor"):
        return line
    at_last = {"explain": ["--layers", "77"], "compare": ["--target", "77777"],
               "prompt": ["--layers", "77"], "analyze": ["--layers", "77"]}  # fmt: skip
    return [*line, *at_last.get(line[0], ["--classes", "few.txt"])]


def arguments(work: Path) -> Try:
    """Whole commands, in this process: each ends well, or in one line that can be shown."""
    kept, built = zoo.load, timm.create_model
    root = work / "root"
    every = tuple(one for one in encoded(np.random.default_rng(0)) if len(one) < 20_000)
    swollen()  # takes long, once
    torch.manual_seed(0)
    model = built("test_vit", img_size=64, num_classes=len(CLASSES)).eval()
    model.classes = CLASSES

    def load(called: Any = None, *, checkpoint: Any = None, **options: Any) -> nn.Module:
        if called is None and checkpoint is None:
            return model
        return kept(called, checkpoint=checkpoint, **options | {"pretrained": False})

    def said(line: list[str]) -> tuple[int, str, str]:
        """What a command in the folder says: its status, standard output, standard error."""
        here, out, err = Path.cwd(), io.StringIO(), io.StringIO()
        zoo.load = load  # type: ignore[attr-defined]
        os.chdir(root)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return main(line), out.getvalue(), err.getvalue()
        finally:
            os.chdir(here)
            zoo.load = kept  # type: ignore[attr-defined]

    root.mkdir()  # what commands import, they import once: it is not to count as growth
    (root / "picture.png").write_bytes(picture(np.random.default_rng(0)))
    (root / "list.txt").write_text("picture.png\t0\npicture.png\t1\n" * 6, encoding="utf-8")
    for line in WARMING:
        status, _, err = said(line.split())
        assert not status, f"{line}: {err}"
    shutil.rmtree(root)

    def attempt(rng: Chance) -> None:
        if not root.exists() or rng.random() < 0.02:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            stocked(root, rng, every)
            if rng.random() < 0.5:
                tree(rng, root / "folder")
        line = hurried(rng, drawn(rng, root))
        before = set(names_in(root))
        status, out, err = said(line)
        answer(status, out, err, f"semattn {line}"[:300])
        assert not (root / "ran").exists(), "a file was run"
        new = set(names_in(root)) - before
        if status:
            assert not new, f"{line}: {new} was left behind"
        for one in new:
            shutil.rmtree(root / one)

    return attempt


def answer(status: int, out: str, err: str, line: str) -> None:
    """Hold what a command said to what it promises; a refusal is raised."""
    for said in (out, err):
        wrong = sorted({one for one in said if not one.isprintable() and one != "\n"})
        assert not wrong, f"{line} said {wrong!r}"
    assert status in (0, 2), f"{line} ended with {status}: {err}"
    if status:
        assert not out, f"{line} was refused, and said {out!r}"
        assert err.startswith("error: "), f"{line} said {err!r}"
        assert err.count("\n") == 1, f"{line} said {err!r}"
        raise Refused(err)
