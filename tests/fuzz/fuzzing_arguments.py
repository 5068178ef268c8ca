"""Fuzzing area: hostile command lines, with odd options, markup in names and unusual paths."""

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

from .fuzzing import NAMES, Attempt, Generator, Refused, pick
from .fuzzing_archives import make_tree, random_archive, random_picture
from .fuzzing_files import forgery, zip_bomb
from .fuzzing_images import encoded_images

CLASSES = ("<b>cat</b>", "[red]dog[/]", "\x1b[31mowl", "</script><script>alert(1)</script>", "x\\")
COMMANDS = (
    "explain", "compare", "analyze", "prompt", "spurious", "audit", "models", "doctor", "marks",
    "config", "check",
)  # fmt: skip
UNCHANGED = 0.004  # part of the command lines that may run to the end, which takes a second

WARM_UP_COMMANDS = (
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
    "--model": ("vit_tiny_patch16_224", "resnet50", "nothing", "hf-hub:a/b", "hf:a/b", "hf:",
                "../x", ".", "torchvision:none", "torchvision:vit_b_16:NONE", "open-clip:none:x",
                "torch-hub-dir:.:f", "torch-hub-dir:", "code.py:model", "code.py:none",
                "classes.txt:f", "missing.py", "x:y:z", *NAMES),
    "--labels": ("a cat, a dog", "classes.txt", "picture.png", ",", "missing.txt"),
    "--precision": ("auto", "float32", "bfloat16", "float16", "half"),
    "--gradient": ("plain", "lrp", "x"),
    "--checkpoint": ("weights.pt", "bomb.pt", "picture.png", ".", "missing"),
    "--class-names": ("classes.txt", "few.txt", "picture.png", ".", "missing"),
    "--target": ("0", "4", "5", "cat", *CLASSES),
    "--method": ("raw-attention", "random", "rolout", "lime"),
    "--methods": ("random,center", "random,random", ",", "x,", "random,x", ",,,"),
    "--density": ("count", "uniform", "cuont", "other"),
    "--detector": ("sift", "sirf"),
    "--layers": ("all", "0", "1-0", "0-99999999999", "0,0", "a-b", "-1", "6-", "last-half", "²"),
    "--queries": ("class", "all", "auto", "nobody"),
    "--affinity": ("0", "0.5", "1", "-0.1"),
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
    "--n-null": ("2", "1"), "--batch-size": ("1", "0"), "--seed": ("0", "5"), "--workers": ("0",),
    "--alpha": ("0.05", "0", "1"), "--min-relative-risk": ("2", "0"),
    "--max-candidates": ("3", "0"), "--nothing": ("x",),
    "--erase": ("copies", "picture.png", ".", "loop"),
    "--max-cues": ("0", "2"), "--min-accuracy": ("0.5", "2"), "--max-marks": ("3", "0"),
    "--against": (".", "missing", "picture.png", "loop"), "--tolerance": ("0", "0.1"),
    "--only": ("0", "cat,dog"), "--json": ("x",),
}  # fmt: skip
FLAGS = (
    "--random-weights",
    "--no-report",
    "--debgu",
    "--suppress",
    "--help",
    "--version",
    "-x",
    "--",
)


OPTIONS_OF = {
    name: tuple(sorted(set(VALUES) & {flag for option in command.params for flag in option.opts}))
    for name, command in get_command(app).commands.items()  # type: ignore[attr-defined]
}


def fill_folder(root: Path, rng: Generator, image_files: Sequence[bytes]) -> None:
    """Fill a folder with images and with files that are not images."""
    (root / "picture.png").write_bytes(random_picture(rng))
    (root / "weights.pt").write_bytes(forgery(rng, root / "ran"))
    (root / "bomb.pt").write_bytes(forgery(rng, root / "ran"))
    (root / "code.py").write_text("def model():\n    return None\n", encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    (root / "few.txt").write_text("cat\n\x1b[2J\n", encoding="utf-8")
    (root / "loop").symlink_to(root / "loop")
    (root / "nowhere").symlink_to(root / "missing" / "missing")
    os.mkfifo(root / "pipe")
    for name in NAMES:
        place = root / f"{name.replace('/', '_').replace(chr(0), '_')[:40]}.png"
        with contextlib.suppress(OSError):
            place.write_bytes(random_picture(rng) if rng.random() < 0.3 else pick(rng, image_files))
    (root / "a.tar").write_bytes(random_archive(rng))


def list_names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def random_line(rng: Generator, root: Path) -> list[str]:
    """Return a random command line, usually with an error."""
    command = pick(rng, COMMANDS) if rng.random() < 0.97 else pick(rng, NAMES)
    line = [command]
    if rng.random() < 0.95:
        names = list_names(root)
        line.append(pick(rng, names) if rng.random() < 0.7 else pick(rng, NAMES))
    for _ in range(int(rng.integers(0, 5))):
        options = OPTIONS_OF.get(command, ())
        option = pick(rng, options) if options and rng.random() < 0.9 else pick(rng, sorted(VALUES))
        values = VALUES[option] if rng.random() < 0.7 else pick(rng, (NUMERIC, NAMES))
        line += [option, pick(rng, values)] if rng.random() < 0.97 else [option]
    if rng.random() < 0.2:
        line.append(pick(rng, FLAGS))
    return line


def make_refused(rng: Generator, line: list[str]) -> list[str]:
    """Add a late error to most command lines, so that no long computation starts."""
    if rng.random() < UNCHANGED or line[0] in ("models", "doctor"):
        return line
    late_error = {"explain": ["--layers", "77"], "compare": ["--target", "77777"],
               "prompt": ["--layers", "77"], "analyze": ["--layers", "77"],
               "marks": ["--alpha", "7"]}  # fmt: skip
    return [*line, *late_error.get(line[0], ["--class-names", "few.txt"])]


def command_lines(work: Path) -> Attempt:
    """Return the attempt on command lines: each must succeed, or fail with one printable line."""
    original_load, create_model = zoo.load, timm.create_model
    root = work / "root"
    image_files = tuple(
        data for data in encoded_images(np.random.default_rng(0)) if len(data) < 20_000
    )
    zip_bomb()  # slow; cached
    torch.manual_seed(0)
    model = create_model("test_vit", img_size=64, num_classes=len(CLASSES)).eval()
    model.classes = CLASSES

    def load(name: Any = None, *, checkpoint: Any = None, **options: Any) -> nn.Module:
        if name is None and checkpoint is None:
            return model
        return original_load(name, checkpoint=checkpoint, **options | {"pretrained": False})

    def run_command(line: list[str]) -> tuple[int, str, str]:
        """Run a command in the folder; return its status, standard output and standard error."""
        previous_dir, out, err = Path.cwd(), io.StringIO(), io.StringIO()
        zoo.load = load  # type: ignore[attr-defined]
        os.chdir(root)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return main(line), out.getvalue(), err.getvalue()
        finally:
            os.chdir(previous_dir)
            zoo.load = original_load  # type: ignore[attr-defined]

    root.mkdir()  # imports happen once and must not count as memory growth
    (root / "picture.png").write_bytes(random_picture(np.random.default_rng(0)))
    (root / "list.txt").write_text("picture.png\t0\npicture.png\t1\n" * 6, encoding="utf-8")
    for line in WARM_UP_COMMANDS:
        status, _, err = run_command(line.split())
        assert not status, f"{line}: {err}"
    shutil.rmtree(root)

    def attempt(rng: Generator) -> None:
        if not root.exists() or rng.random() < 0.02:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            fill_folder(root, rng, image_files)
            if rng.random() < 0.5:
                make_tree(rng, root / "folder")
        line = make_refused(rng, random_line(rng, root))
        before = set(list_names(root))
        status, out, err = run_command(line)
        check_output(status, out, err, f"semattn {line}"[:300])
        assert not (root / "ran").exists(), "a file was run"
        new_names = set(list_names(root)) - before
        if status:
            assert not new_names, f"{line}: {new_names} was left behind"
        for name in new_names:
            shutil.rmtree(root / name)

    return attempt


def check_output(status: int, out: str, err: str, line: str) -> None:
    """Check the output of a command; raise `Refused` if it was refused."""
    for text in (out, err):
        unprintable = sorted(
            {character for character in text if not character.isprintable() and character != "\n"}
        )
        assert not unprintable, f"{line} said {unprintable!r}"
    assert status in (0, 2), f"{line} ended with {status}: {err}"
    if status:
        assert not out, f"{line} was refused, and said {out!r}"
        assert err.startswith("error: "), f"{line} said {err!r}"
        assert err.count("\n") == 1, f"{line} said {err!r}"
        raise Refused(err)
