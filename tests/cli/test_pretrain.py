"""`semattn pretrain`: result files, console output, refusals and resuming."""

from __future__ import annotations

import json

import pytest
from PIL import Image

pytest.importorskip("accelerate")

from semattn.pretraining import models
from tests.conftest import refused
from tests.pretraining.runs import TINY, pictures
from tests.result_files import names_in

SMALL = ("--model", "least", "--image-size", 32, "--patch-size", 8, "--batch-size", 8,
         "--device", "cpu", "--workers", 0, "--precision", "float32",
         "--learning-rate", 0.01)  # fmt: skip


def without(arguments, options):
    """Return the arguments without the options that stand in others, since none may be repeated."""
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [part for name, value in pairs if name not in options for part in (name, value)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(models.SIZES, "least", TINY)
    monkeypatch.chdir(tmp_path)
    for number, picture in enumerate(pictures(12)):
        path = tmp_path / "photos" / "abc"[number % 3] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (tmp_path / "photos/a/words.txt").write_text("no picture")
    (tmp_path / "photos/b/[red].png").write_bytes(b"")
    return tmp_path / "photos"


def test_it_writes_everything_and_says_where(run, folder, tmp_path):
    status, out, err = run("pretrain", folder, *SMALL, "--epochs", 2, "--validation", folder)
    assert status == 0, err
    assert not err
    results = tmp_path / "semattn-pretrain"
    assert names_in(results) == [
        "checkpoints", "metrics.jsonl", "model", "pretrain.json", "reconstruction.png",
    ]  # fmt: skip
    assert out.startswith("12 photographs, 2 epochs, random masking")
    assert ", target sift" in out.splitlines()[0]
    assert "skipped: 2" in out and "[red].png" in out and "words.txt" in out
    assert "loss under fixed random masks" in out
    assert out.endswith("model, metrics.jsonl, pretrain.json, reconstruction.png\n")
    lines = [json.loads(line) for line in (results / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 1, 2, 2]
    about = json.loads((results / "pretrain.json").read_text(), parse_constant=pytest.fail)
    settings = about["settings"]
    assert about["finished"] and settings["masking"]["policy"] == "RandomMasking"
    assert settings["target"] == "sift"
    with Image.open(results / "reconstruction.png") as picture:
        assert picture.width > 1500

    status, out, err = run("pretrain", folder, *SMALL, "--epochs", 2, "--validation", folder)
    assert status == 0 and "resumed from step 2" in out
    message = refused(run("pretrain", folder, *SMALL, "--epochs", 3), "got one in semattn-pretrain")
    assert "expected a run with epochs 3" in message


def test_an_interrupted_run_goes_on(run, folder, tmp_path, monkeypatch):
    arguments = ("pretrain", folder, *SMALL, "--epochs", 3, "--masking", "block-wise")
    assert run(*arguments, "--out", "whole")[0] == 0
    from semattn.pretraining import trainer

    say, calls = trainer.ProgressReporter.on_train_begin, []

    def interrupt(self, args, state, control, **more):
        calls.append(state.global_step)
        if state.global_step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer.ProgressReporter, "on_step_end", interrupt)
    status, out, err = run(*arguments, "--out", "parts")
    assert status == 130 and not out and err.count("\n") == 1 and calls == [1, 2, 3]
    monkeypatch.setattr(trainer.ProgressReporter, "on_step_end", say)
    status, out, err = run(*arguments, "--out", "parts")
    assert status == 0, err
    assert "resumed from step 2" in out
    uninterrupted, parts = (
        tmp_path / name / "model/model.safetensors" for name in ("whole", "parts")
    )
    assert uninterrupted.read_bytes() == parts.read_bytes()


def test_beta_moves(run, folder, tmp_path):
    status, out, err = run(
        "pretrain", folder, *SMALL, "--epochs", 2, "--beta", -1, "--beta-end", -3, "--hint", 0.1,
        "--schedule", "cosine", "--density", "sobel", "--loss-weight", "kamim", "--out", "made",
    )  # fmt: skip
    assert status == 0, err
    assert "guided masking, beta -3: sparse patches are masked more often" in out
    about = json.loads((tmp_path / "made/pretrain.json").read_text())["settings"]
    assert about["masking"]["beta"] == {"start": -1, "end": -3, "epochs": 2, "shape": "cosine"}


def test_targets_and_weights_are_options(run, folder, tmp_path):
    arguments = ("pretrain", folder, *SMALL, "--epochs", 1, "--target", "words", "--words", 4,
                 "--window", 12, "--loss-weight", "keypoints")  # fmt: skip
    status, out, err = run(*arguments)
    assert status == 0, err
    assert ", target words" in out
    results = tmp_path / "semattn-pretrain"
    assert {"words.npz", "reconstruction.png"} < {*names_in(results)}
    settings = json.loads((results / "pretrain.json").read_text())["settings"]
    assert (settings["target"], settings["words"], settings["window"]) == ("words", 4, 12)
    assert settings["loss_weight"] == "keypoints"
    status, out, err = run(*arguments)
    assert status == 0 and "resumed from step 1" in out
    message = refused(
        run("pretrain", folder, *SMALL, "--epochs", 1, "--target", "sift+colour"),
        "got one in semattn-pretrain",
    )
    assert "expected a run with" in message


@pytest.mark.parametrize(("more", "expected"), [
    (("--target", "shift"), "target: unknown name 'shift' — did you mean 'sift'?"),
    (("--target", "words", "--words", 9999), "words: expected at most 192"),
    (("--loss-weight", "keypoint"), "loss_weight: unknown name 'keypoint' — did you mean"),
    (("--masking", "gided"), "masking: unknown name 'gided' — did you mean 'guided'"),
    (("--masking", "random", "--beta", 1), "--beta: expected --masking guided, got"),
    (("--schedule", "step"), "schedule: unknown name"),
    (("--mask-ratio", 1.5), "mask_ratio: expected a number in (0, 1)"),
    (("--batch-size", 64), "batch_size: expected at most 12"),
    (("--model", "large"), "model: unknown name 'large'"),
    (("--density", "cuont"), "density: unknown name"),
    (("--device", "tpu"), "device: unknown name"),
    (("--out", "photos/a/words.txt"), "out: expected a folder, got the file"),
])  # fmt: skip
def test_what_is_refused(run, folder, tmp_path, more, expected):
    refused(run("pretrain", folder, *without(SMALL, more), *more), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"], "nothing is left behind"


def test_folders_without_pictures_are_refused(run, folder, tmp_path):
    refused(run("pretrain", tmp_path / "nowhere"), "folder: expected")
    (tmp_path / "words").mkdir()
    (tmp_path / "words/a.txt").write_text("a")
    refused(run("pretrain", tmp_path / "words"), "pictures: expected at least one readable picture",
            "a.txt: image: ")  # fmt: skip


def test_without_transformers_it_says_what_to_install(run, folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(run("pretrain", folder), "pip install 'semattn[pretrain]'")
