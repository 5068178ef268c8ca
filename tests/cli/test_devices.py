"""The whole command line on the simulated accelerator, and the choice of a device."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from semattn.utils import devices
from tests.accelerator import accelerator
from tests.cli.test_spurious import fill
from tests.conftest import refused

pytestmark = pytest.mark.usefixtures("elsewhere", "quick_figures")

# Commands, the file with their numbers, and the entry in it that is compared
COMMANDS = {
    "explain": (["explain", "photo.png"], "result.json", "predictions"),
    "compare": (
        ["compare", "photo.png", "--methods", "sift-patch-interrelation,legrad,grad-cam,attn-lrp"],
        "compare.json", "predictions",
    ),
    "prompt": (["prompt", "photo.png", "--strength", "1"], "prompt.json", "classes"),
    "analyze": (["analyze", "photos", "--n-null", "2"], "analysis.json", "metrics"),
    "spurious": (["spurious", "photos"], "spurious.json", "accuracy"),
    "audit": (["audit", "photos", "--workers", "0", "--batch-size", "4"], "audit.json", "summary"),
    "bench": (
        ["bench", "explain", "--data", "folder:photos", "--methods",
         "sift-patch-interrelation,random", "--quick", "--images", "2", "--precision", "float32",
         "--metrics", "deletion"],
        "bench.json", "methods",
    ),
}  # fmt: skip
MEASURED = ("seconds", "peak_mib", "speed", "images_per_second")  # differ from run to run


@pytest.fixture
def photos(tmp_path):
    fill(tmp_path, 1)
    (tmp_path / "0.png").rename(tmp_path / "photo.png")
    for name in ("dog", "Cup or pot"):
        fill(tmp_path / "photos" / name, 6)


def numbers(value: object) -> list[float]:
    """Return all numbers in a JSON value, in order, without measured times."""
    if isinstance(value, dict):
        entries = (item for name, item in value.items() if name not in MEASURED)
        return [number for item in entries for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [float(value)] if isinstance(value, int | float) else []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_an_accelerator_gives_the_numbers_of_the_cpu(run, photos, tmp_path, command):
    line, file, entry = COMMANDS[command]
    report = [] if command in ("bench", "explain") else ["--no-report"]
    results = []
    with accelerator():
        for device in ("lazy", "cpu"):
            status, out, err = run(*line, *report, "--device", device, "--out", device)
            assert (status, err) == (0, ""), err
            name = "lazy:0" if device == "lazy" else "cpu"
            assert out.splitlines()[0] == f"VisionTransformer on {name}, float32"
            content = json.loads((tmp_path / device / file).read_text(encoding="utf-8"))
            results.append(np.array(numbers(content[entry])))
    assert len(results[0]) and results[0].shape == results[1].shape
    assert (tmp_path / "lazy/report.html").exists() == (command == "explain")
    np.testing.assert_allclose(results[0], results[1], rtol=1e-3, atol=1e-4)


def test_a_model_is_checked_on_an_accelerator(run):
    with accelerator():
        status, out, err = run("models", "timm:test_vit", "--device", "lazy")
    assert (status, err) == (0, "") and "on lazy:0, float32" in out and "works" in out


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(run, photos, tmp_path, precision):
    line = ["explain", "photo.png", "--no-report", "--out"]
    status, out, err = run(*line, precision, "--precision", precision)
    assert (status, err) == (0, ""), err
    assert out.splitlines()[0].endswith(f" on cpu, {precision}")
    assert run(*line, "o")[0] == 0
    half, full = (np.load(tmp_path / name / "map.npy") for name in (precision, "o"))
    assert np.corrcoef(half.ravel(), full.ravel())[0, 1] > 0.9
    refused(run(*line, "x", "--precision", "int8"), "precision: unknown name 'int8'")


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "device"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_cuda_then_mps_then_the_cpu(monkeypatch, has_cuda, has_mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert devices.best_device() == device


def test_an_operator_that_mps_lacks_is_named(run, photos, monkeypatch):
    from semattn.explain import SIFTPatchInterrelation

    explain = SIFTPatchInterrelation.explain
    message = (
        "The operator 'aten::hypot' is not currently supported on the MPS backend and will fall "
        "back to run on the CPU. This may have performance implications."
    )

    def warn(self, *args, **options):
        warnings.warn_explicit(message, UserWarning, "functional.py", 1, module="torch")
        warnings.warn_explicit("another warning", UserWarning, "functional.py", 1, module="torch")
        return explain(self, *args, **options)

    monkeypatch.setattr(SIFTPatchInterrelation, "explain", warn)
    status, out, err = run("explain", "photo.png", "--no-report")
    assert (status, err) == (0, "")
    assert f"note: {message}" in out and "another warning" not in out


def test_auto_is_the_default(run, photos, monkeypatch):
    monkeypatch.setattr(devices, "best_device", lambda: "lazy")
    with accelerator():
        status, out, err = run("explain", "photo.png", "--no-report")
    assert (status, err) == (0, ""), err
    assert " on lazy:0, float32" in out.splitlines()[0]


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    from semattn.cli.model_options import ModelOptions

    asked = []

    def resolve(name):
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr(devices, "resolve_device", resolve)
    monkeypatch.setattr(devices, "best_device", lambda: "cuda")
    for device in ("auto", "cuda", "cuda:0", "cpu"):
        ModelOptions(device=device).load("3")
    assert asked == ["cuda:3", "cuda:3", "cuda:0", "cpu"]
