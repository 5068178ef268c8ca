"""Fixtures of the command tests: a tiny model, an empty folder, and a command line."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import settings
from PIL import Image

from semattn.cli import parsing as reading
from semattn.cli.main import main

# The same cases in every run; `--hypothesis-profile default` draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# No defaults from files on the machine that runs the tests.
os.environ["SEMATTN_CONFIG"] = ""

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "flower.jpg"
CLASSES = ("Cat, cats", "dog", "owl, owls", "Cup or pot", "Car, cars")


def tiny(name: str = "test_vit") -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"img_size": 64} if name == "test_vit" else {}
    return timm.create_model(name, num_classes=len(CLASSES), **options).eval()


@pytest.fixture(scope="session")
def ray_cluster():
    """Return Ray, connected to a cluster of this machine with two CPUs."""
    from semattn.utils.ray_session import ray_session

    with ray_session() as ray:
        yield ray


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The command runs in an empty folder, and never touches the embedded weights."""

    def load(name=None, *, checkpoint=None, pretrained=True, labels=None, device="cpu"):
        model = tiny((name or "test_vit").removeprefix("timm:")).to(device)
        model.classes = CLASSES
        return model

    monkeypatch.setattr(import_module("semattn.zoo"), "load", load, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command line in this process: status, standard output, standard error."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return command


class Drawing:
    """A blank figure, which is written quickly."""

    def savefig(self, file: Path) -> None:
        Image.new("RGB", (16, 16)).save(file)


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures of the commands are blank and overlays are small; other tests look at them."""
    for name in ("figure", "comparison", "strength_sweep"):
        monkeypatch.setattr(f"semattn.cli.image_writers.{name}", lambda *a, **k: Drawing())
    monkeypatch.setattr("semattn.viz.analysis", lambda *a, **k: Drawing())
    for command in ("explain", "compare", "prompt"):
        monkeypatch.setattr(
            f"semattn.cli.{command}.enlarged_view",
            lambda image, network, *sharpness: reading.enlarged_view(image, network, 64),
        )


def refused(answer, *parts: str) -> str:
    """The one line that a refused command leaves behind."""
    status, out, err = answer
    assert status == 2, err
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    for part in parts:
        assert part in err
    return err
