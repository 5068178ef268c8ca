"""The page of `semattn demo`: what it computes, and, with the real Gradio, how it is served."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import nn

from semattn import SIFTPatchInterrelation
from semattn.cli.main import main
from semattn.integrations.gradio_demo import explain_picture
from tests.served_demo import demo_model, demo_picture

ROOT = Path(__file__).parents[1]


@pytest.fixture
def model() -> nn.Module:
    return demo_model()


@pytest.fixture
def picture() -> Image.Image:
    return demo_picture()


def test_the_answer_has_the_map_the_classes_and_the_notes(
    model: nn.Module, picture: Image.Image
) -> None:
    explanation = SIFTPatchInterrelation(model).explain(picture, target=3)
    drawn, classes, notes = explain_picture(model, picture, target=3, show_keypoints=False)
    assert drawn.shape == (480, 640, 3) and drawn.dtype == np.uint8
    probabilities = explanation.logits[0].double().softmax(0).tolist()
    assert list(classes.values()) == pytest.approx(sorted(probabilities, reverse=True))
    named = {"ant (#0)": 0, "bee": 1, "ant (#2)": 2, "dog": 3, "eel": 4}
    assert classes == pytest.approx({name: probabilities[k] for name, k in named.items()})
    assert notes.startswith("**dog  ") and f"{len(explanation.keypoints[0])} keypoints." in notes
    with_circles, _, _ = explain_picture(model, picture, target=3)
    changed = (with_circles != drawn).any(axis=2)
    assert (with_circles[changed] == 255).all() and changed.sum() > len(explanation.keypoints[0])
    assert explain_picture(model, None) == (None, "", "")


def test_prompting_changes_the_classes_and_no_hook_stays(
    model: nn.Module, picture: Image.Image
) -> None:
    _, plain, _ = explain_picture(model, picture)
    _, prompted, _ = explain_picture(model, picture, strength=2.0)
    assert plain != prompted
    assert explain_picture(model, picture)[1] == plain


def test_an_output_without_probabilities_is_a_text(model: nn.Module, picture: Image.Image) -> None:
    model.head, model.classes = nn.Identity(), None
    _, text, notes = explain_picture(model, picture)
    assert text == "The model's own feature direction" and text in notes


def test_without_gradio_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.endswith("got none — pip install 'semattn[demo]'\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command_prints_the_address_and_closes_the_page(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:  # fmt: skip
    calls: list[Any] = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    def serve(page: Any, port: int | None) -> Any:
        calls.append((page, port))
        return "http://127.0.0.1:7861/", lambda: calls.append("closed")

    demo = "semattn.integrations.gradio_demo"
    monkeypatch.setattr("semattn.zoo.load", lambda *args, **options: model)
    monkeypatch.setattr(f"{demo}.check_gradio", lambda: None)
    monkeypatch.setattr(f"{demo}.build_demo", lambda network: network)
    monkeypatch.setattr(f"{demo}.serve_demo", serve)
    monkeypatch.setattr("semattn.cli.demo.time.sleep", interrupt)
    assert main(["demo", "--port", "7861", *arguments]) == 0
    out = capsys.readouterr().out
    assert calls == [(model, 7861), "closed"]
    if arguments:
        assert json.loads(out) == {"address": "http://127.0.0.1:7861/"}
    else:
        assert out == "open http://127.0.0.1:7861/ in a browser; Control-C stops the page\n"


def test_the_page_is_served_to_this_machine_alone(tmp_path: Path) -> None:
    """In another process, because Gradio leaves sockets and event loops open, which warn."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'semattn[demo]'")
    command = [sys.executable, "-m", "tests.served_demo", str(tmp_path)]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "uploads")}
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "served\n"
