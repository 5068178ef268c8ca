"""`semattn bench explain` as a person types it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from semattn.cli.main import main
from semattn.cli.parsing import read_precision
from tests.conftest import refused

pytestmark = pytest.mark.usefixtures("elsewhere")
SMALL = ["--model", "test_vit", "--random-weights"]
ROWS = "sift-patch-interrelation,attention-rollout,random"


@pytest.fixture
def data(tmp_path):
    chance = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(4):
        small = chance.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small.repeat(8, 0).repeat(8, 1)).save(tmp_path / "images" / f"{number}.png")
        mask = np.zeros((96, 128), np.uint8)
        mask[20:60, 20 + 10 * number : 80] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    return f"masks:{tmp_path / 'images'},{tmp_path / 'masks'}"


def test_the_whole_way(data, tmp_path, capsys):
    arguments = ["bench", "explain", "--data", data, "--methods", ROWS, "--steps", "4", *SMALL]
    out = tmp_path / "out"
    assert main([*arguments, "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "attention-rollout" in output and "4 images" in output and "bench.md" in output
    result = json.loads((out / "bench.json").read_text())
    assert result["images"] == 4 and [row["method"] for row in result["methods"]][-1] == "random"
    ours = next(row for row in result["methods"] if row["method"] == "sift-patch-interrelation")
    assert 0 <= ours["metrics"]["ap"]["low"] <= ours["metrics"]["ap"]["mean"] <= 1
    assert ours["differences"]["attention-rollout"]["ap"]["count"] == 4
    with (out / "bench.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12
    mean = np.mean([float(line["ap"]) for line in lines if line["method"] == ours["method"]])
    assert mean == pytest.approx(ours["metrics"]["ap"]["mean"])
    with Image.open(out / "bench.png") as picture:
        assert picture.size[0] > 1000
    assert "| minus attention-rollout |" in (out / "bench.md").read_text()
    times = {path: path.stat().st_mtime_ns for path in (out / ".bench").glob("*.json")}
    assert main([*arguments, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / ".bench").glob("*.json")} == times
    assert json.loads((out / "bench.json").read_text()) == result


def test_a_killed_run_goes_on(data, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), weights)
    arguments = ["bench", "explain", "--data", data, "--methods", ROWS, "--steps", "64"]
    arguments += ["--model", "test_vit", "--checkpoint", str(weights)]
    uninterrupted, interrupted = tmp_path / "whole", tmp_path / "cut"

    def start(folder):
        command = [sys.executable, "-m", "semattn", *arguments, "--out", str(folder)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL)

    with start(interrupted) as process:
        until = time.monotonic() + 120
        while not list(interrupted.glob(".bench/*1.json")) and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.002)
        process.kill()
    contents = {path: path.read_bytes() for path in interrupted.glob(".bench/*.json")}
    assert len(contents) >= 2 and not (interrupted / "bench.json").exists()
    for folder in (uninterrupted, interrupted):
        assert start(folder).wait(120) == 0
    assert all(path.read_bytes() == before for path, before in contents.items())
    for row, other in zip(
        *(_numbers(folder) for folder in (uninterrupted, interrupted)), strict=True
    ):
        assert row == other


def test_half_precision_is_taken_where_the_processor_has_it(monkeypatch):
    for is_supported in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda value=is_supported: value)
        assert read_precision("auto", "cpu") == ("bfloat16" if is_supported else "float32")
        assert read_precision("float16", "cpu") == "float16"
    monkeypatch.delattr("torch.cpu._is_avx512_bf16_supported")
    assert read_precision("auto", "cpu") == "float32"
    assert read_precision("auto", "meta") == "float32"


def test_what_failed_before_its_first_image_leaves_the_folder_free(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    arguments = ["bench", "explain", "--data", data, *SMALL, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--methods", "pytorch-grad-cam/GradCAM"]) == 2
    assert main([*arguments, "--methods", "random", "--metrics", "ap"]) == 0
    assert main([*arguments, "--methods", "center", "--metrics", "ap"]) == 2


def _numbers(folder):
    """Return the lines of a result without the seconds."""
    with (folder / "bench.csv").open() as file:
        return [{**line, "seconds": ""} for line in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "mask:a"], "did you mean 'masks'"),
        (
            ["--data", "DATA", "--methods", "rolout"],
            "unknown name 'rolout' — did you mean 'attention-rollout'",
        ),
        (["--data", "DATA", "--metrics", "app"], "did you mean 'ap'"),
        (["--data", "DATA", "--baselines", "grad-cam"], "baselines: expected some of"),
        (["--data", "DATA", "--baseline", "blurr"], "did you mean 'blur'"),
        (["--data", "DATA", "--refine", "guide"], "did you mean 'guided'"),
        (["--data", "DATA", "--precision", "half"], "precision: unknown name 'half'"),
        (["--data", "masks:images"], "data: expected masks:IMAGES,MASKS, got 1 path"),
        ([], "--data"),
    ],
)
def test_wrong_input_ends_in_one_line(run, data, arguments, message, tmp_path):
    typed = [data if argument == "DATA" else argument for argument in arguments]
    rows = [] if "--methods" in arguments else ["--methods", "random"]
    out = ["--out", str(tmp_path / "out")]
    refused(run("bench", "explain", *typed, *rows, *SMALL, *out), message)
    assert not (tmp_path / "out" / "bench.json").exists()
