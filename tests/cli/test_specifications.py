"""Models of every source on the command line: each command works, or refuses the model by name."""

from __future__ import annotations

import json

import pytest
import torch

from semattn.zoo.hub_cache import errors_only, hide_progress_bars
from tests.cli.test_spurious import fill
from tests.conftest import refused
from tests.zoo.saved_models import CASES, LABELS, ZERO_SHOT

pytestmark = pytest.mark.usefixtures("quick_figures")

# Commands, and the options that make them quick
COMMANDS = {
    "explain": ["photo.png"],
    "prompt": ["photo.png", "--no-report", "--strength", "1"],
    "analyze": ["photos", "--no-report", "--n-null", "2"],
    "spurious": ["photos", "--no-report"],
    "audit": ["photos", "--jobs", "explain", "--workers", "0", "--batch-size", "4"],
}
RESULT = {
    "explain": "result.json", "prompt": "prompt.json", "analyze": "analysis.json",
    "spurious": "spurious.json", "audit": "audit.json",
}  # fmt: skip
# What a command refuses, and the reason in its message
REFUSED = {
    ("transformers-dinov2-features", "prompt"): "expected a class with a probability",
    ("transformers-dinov2-features", "spurious"): "expected a classifier",
    ("torchvision-swin", "spurious"): "got a layer with its own softmax",
}
LEFT_OUT = {("torch-hub-folder", name) for name in ("prompt", "analyze", "spurious", "audit")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the specification of a saved model, which is written once."""
    specifications: dict[str, str] = {}
    hub = torch.hub.get_dir()

    def specification(name: str) -> str:
        if name not in specifications:
            with hide_progress_bars(), errors_only("transformers"):
                specifications[name] = CASES[name](tmp_path_factory.mktemp(name))
        return specifications[name]

    yield specification
    torch.hub.set_dir(hub)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Return an empty folder that the command runs in; a connection is an error."""
    monkeypatch.chdir(tmp_path)

    def connect(*_):
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", connect)
    return tmp_path


def options_of(case: str) -> list[str]:
    return ["--labels", ",".join(LABELS)] if case in ZERO_SHOT else []


@pytest.mark.parametrize(
    ("case", "command"),
    # The folder of torch.hub has the model of the Python file.
    [(case, name) for case in CASES for name in COMMANDS if (case, name) not in LEFT_OUT],
)
def test_each_command_on_a_model_of_each_source(run, saved, work, case, command):
    specification = saved(case)
    fill(work, 1)
    (work / "0.png").rename(work / "photo.png")
    for name in ("a cat", "a dog") if case in ZERO_SHOT else ("cat", "dog"):
        fill(work / "photos" / name, 6)
    answer = run(
        command, *COMMANDS[command], "--model", specification, "--out", "o", *options_of(case)
    )
    if (case, command) in REFUSED:
        refused(answer, REFUSED[case, command])
        return
    status, out, err = answer
    assert (status, err) == (0, ""), err
    origin = " (local code)" if case in ("python-file", "torch-hub-folder") else ""
    assert out.splitlines()[0] == f"{specification}{origin} on cpu, float32"
    manifest = json.loads((work / "o" / RESULT[command]).read_text(encoding="utf-8"))["manifest"]
    assert manifest["specification"] == specification + origin
    assert (work / "o" / "report.html").exists() == (command == "explain")
