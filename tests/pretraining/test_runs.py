"""Tests of complete runs: killed and resumed, in two processes, weighted, in half precision."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("accelerate")

from semattn.masking import BlockwiseMasking, RandomMasking
from semattn.pretraining import (
    EpochSampler,
    FixedMasks,
    MaskedImages,
    build_model,
    features,
    pretrain,
)
from semattn.pretraining.checkpoints import RunError, latest
from semattn.pretraining.reconstruction import masked_loss
from tests.pretraining.runs import TINY, options, pictures
from tests.result_files import names_in

ROOT = Path(__file__).parents[2]


def start(out, *launcher, check=True, **settings):
    """Start the run of `runs.py` in separate processes."""
    warnings = ("-W", "error", "-W", "ignore:mtime may not be reliable:UserWarning")
    command = [sys.executable, *warnings, *launcher, "-m", "tests.pretraining.runs"]
    if launcher:
        command = [sys.executable, *launcher, "-m", "tests.pretraining.runs"]
    run = subprocess.run(
        [*command, str(out), json.dumps(settings)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if check:
        assert run.returncode == 0, run.stderr
    return run


def weights(out):
    """Load the weights of the saved model file."""
    return load_file(out / "model" / "model.safetensors")


def equal_weights(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def recorded_items(out):
    records = [json.loads(path.read_text()) for path in sorted(out.glob("seen-*.json"))]
    return [
        {(epoch, index): content for epoch, index, content in record["seen"]} for record in records
    ]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread, as in the started processes: the number of threads changes the rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the folder of an uninterrupted run in this process."""
    out = tmp_path_factory.mktemp("alone")
    run = pretrain(pictures(), out, **options())
    assert run.resumed == 0 and run.is_main
    return out


@pytest.mark.parametrize(
    ("stop", "more"),
    [(7, {}), (8, {"checkpoint_steps": 4})],
    ids=["in the second epoch", "at a checkpoint within an epoch"],
)
def test_a_killed_run_ends_with_the_same_weights(uninterrupted, tmp_path, stop, more):
    killed = start(tmp_path, stop=stop, check=False, **more)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert json.loads((tmp_path / "pretrain.json").read_text())["finished"] is False
    # simulates an interruption while a later checkpoint was written
    (tmp_path / "checkpoints" / "checkpoint-11").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-11" / "model.safetensors").write_bytes(b"half")
    resumed = pretrain(pictures(), tmp_path, **options(**more))
    assert resumed.resumed == (6 if not more else 4)
    assert equal_weights(weights(tmp_path), weights(uninterrupted))
    assert not (tmp_path / "checkpoints" / "checkpoint-11").exists()
    assert json.loads((tmp_path / "pretrain.json").read_text())["finished"] is True
    if not more:
        resumed_log, expected_log = (
            [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            for out in (tmp_path, uninterrupted)
        )
        assert [entry["loss"] for entry in resumed_log] == [entry["loss"] for entry in expected_log]
        assert [entry["step"] for entry in resumed_log] == [3, 6, 9, 12]
        seconds = [entry["seconds"] for entry in resumed_log]
        assert seconds == sorted(seconds) and seconds[0] > 0


@pytest.fixture(scope="module")
def single_process(tmp_path_factory):
    """Return the folder of a run in a single separate process with recorded items."""
    out = tmp_path_factory.mktemp("one")
    start(out)
    return out


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node=2"),
    # accelerate starts several processes for GPUs only; the run itself stays on the CPU
    "accelerate": ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
                   "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
}  # fmt: skip


def free_port() -> int:
    """Return a free port; accelerate does not find one itself before 1.4."""
    with socket.socket() as connection:
        connection.bind(("127.0.0.1", 0))
        return int(connection.getsockname()[1])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_load_the_same_items_and_learn_the_same(
    uninterrupted, single_process, tmp_path, launcher
):
    port = ("--main_process_port", str(free_port())) if launcher == "accelerate" else ()
    start(tmp_path, "-m", *LAUNCHERS[launcher], *port)
    (all_items,), parts = recorded_items(single_process), recorded_items(tmp_path)
    assert len(parts) == 2 and not parts[0].keys() & parts[1].keys(), "each image in one process"
    assert parts[0] | parts[1] == all_items and len(all_items) == 4 * 24
    assert equal_weights(weights(single_process), weights(uninterrupted))
    actual, expected = weights(tmp_path), weights(uninterrupted)
    for name in actual:  # sums in another order
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4)
    assert names_in(tmp_path) == [
        "checkpoints", "keypoints", "metrics.jsonl", "model", "pretrain.json", "seen-0.json",
        "seen-1.json",
    ]  # fmt: skip


def test_loading_in_the_background_changes_nothing(uninterrupted, tmp_path):
    pretrain(pictures(), tmp_path, **options(workers=2))
    assert equal_weights(weights(tmp_path), weights(uninterrupted))


def test_a_finished_run_is_not_run_again(uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_text()
    again = pretrain(pictures(), uninterrupted, **options(progress=None))
    assert again.resumed == 12
    assert (uninterrupted / "metrics.jsonl").read_text() == before
    assert len(again.log) == 4


def test_a_folder_of_another_run_is_refused(uninterrupted):
    with pytest.raises(RunError, match="expected a run with seed 2, got .* with 1"):
        pretrain(pictures(), uninterrupted, **options(seed=2))
    with pytest.raises(RunError, match="pictures: expected the 24 pictures .* got 16"):
        pretrain(pictures(16), uninterrupted, **options())


@pytest.mark.parametrize("more", [
    {"masking": RandomMasking(), "precision": "bfloat16"},
    {"masking": BlockwiseMasking(0.5), "loss_weight": "kamim-relative", "keypoints": "detect"},
    {"density": "other"}, {"density": "sobel"}, {"density": "shifted", "keypoints": "detect"},
], ids=str)  # fmt: skip
def test_all_kinds_of_runs_reduce_the_loss(more, tmp_path):
    called = []
    result = pretrain(
        pictures(), tmp_path,
        **options(epochs=2, validation=pictures(8), learning_rate=0.03,
                  after_epoch=lambda run, done, seconds: called.append((done, seconds)), **more),
    )  # fmt: skip
    assert [done for done, _ in called] == [1, 2]
    validation_losses = [line["eval_loss"] for line in result.log if "eval_loss" in line]
    assert len(validation_losses) == 2 and validation_losses[1] < validation_losses[0]
    needs = more.get("density") != "sobel" and type(more.get("masking")) is not RandomMasking
    assert (tmp_path / "keypoints").exists() == (needs and more.get("keypoints") != "detect")


@pytest.mark.parametrize("count", [8, 3, 11])  # a batch has 8
def test_the_loss_under_fixed_masks_is_the_loss_of_the_model(count, tmp_path):
    run = pretrain(pictures(), tmp_path, **options(epochs=1, validation=pictures(count)))
    data = FixedMasks(run.data, pictures(count))
    items = [data[i] for i in range(count)]
    pixels, noise = (
        torch.stack([item[key] for item in items]) for key in ("pixel_values", "noise")
    )
    with torch.no_grad():
        loss = run.model.eval()(pixels, noise=noise).loss.item()
    (logged,) = [line["eval_loss"] for line in run.log if "eval_loss" in line]
    assert logged == pytest.approx(loss, rel=1e-5)


def test_the_picture_is_drawn_at_the_end(tmp_path):
    pretrain(pictures(), tmp_path, **options(epochs=1, reconstructions=3))
    assert (tmp_path / "reconstruction.png").stat().st_size > 10_000


@pytest.mark.parametrize(("more", "message"), [
    ({"batch_size": 25}, "batch_size: expected at most 24"),
    ({"batch_size": 0}, "batch_size"),
    ({"epochs": 0}, "epochs: expected at least 1"),
    ({"precision": "float8"}, "precision: unknown name 'float8'"),
    ({"precision": "float16"}, "expected a GPU for float16"),
    ({"keypoints": "cached"}, "did you mean 'cache'"),
    ({"device": "gpu0"}, "device: unknown name"),
    ({"model": "huge"}, "model: unknown name 'huge'"),
    ({"density": "cont"}, "did you mean 'count'"),
    ({"density": "distinct"}, "density: expected one without descriptors"),
    ({"loss_weight": "kamin"}, "loss_weight: unknown name"),
    ({"image_size": 36, "patch_size": 8}, "image_size: expected a multiple"),
])  # fmt: skip
def test_invalid_options_are_refused(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain(pictures(), tmp_path / "out", **options(**more))


def test_features_use_the_full_image():
    model = build_model(TINY, image_size=32, patch_size=8)
    pixels = torch.rand(2, 3, 32, 32)
    original = features(model, pixels)
    assert original.shape == features(model, pixels, "class").shape == (2, 16)
    assert torch.equal(original, features(model, pixels)), "no random numbers"
    assert model.config.mask_ratio == 0.75 and model.training
    pixels[0, :, 24:, 24:] = 0  # each patch counts
    changed = features(model, pixels)
    assert not torch.allclose(changed[0], original[0]) and torch.equal(changed[1], original[1])


def test_a_saved_model_can_be_loaded(uninterrupted, tmp_path):
    model = build_model(uninterrupted / "model", image_size=32, patch_size=8)
    trained = pretrain(pictures(), uninterrupted, **options()).model
    assert equal_weights(dict(model.state_dict()), dict(trained.state_dict()))
    model.save_pretrained(tmp_path / "model")
    assert equal_weights(weights(tmp_path), weights(uninterrupted))
    with pytest.raises(ValueError, match="expected image size 64"):
        build_model(uninterrupted / "model", image_size=64, patch_size=8)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_weighted_loss_matches_a_slow_loop(normalised):
    chance = torch.Generator().manual_seed(0)
    predicted, target = torch.rand(2, 3, 5, 12, generator=chance, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 0, 0]], dtype=torch.float64)
    weight = 1 + 5 * torch.rand(3, 5, generator=chance, dtype=torch.float64)
    images = []
    for i in range(3):
        total = parts = 0.0
        for p in range(5):
            if mask[i, p]:
                expected = target[i, p]
                if normalised:
                    expected = (expected - expected.mean()) / (expected.var() + 1e-6).sqrt()
                total += weight[i, p] * ((predicted[i, p] - expected) ** 2).mean()
                parts += weight[i, p]
        images.append(total / parts)
    loss = masked_loss(predicted, target, mask, weight, normalised)
    assert loss.item() == pytest.approx(float(sum(images) / 3), rel=1e-12)


def test_equal_weights_give_the_loss_of_the_model():
    model = build_model(TINY, image_size=32, patch_size=8)
    pixels = torch.rand(4, 3, 32, 32)
    out = model(pixels, noise=torch.rand(4, 16))
    equal = masked_loss(
        out.logits, model.patchify(pixels), out.mask, torch.full((4, 16), 3.0), True
    )
    assert equal.item() == pytest.approx(out.loss.item(), rel=1e-6)


def test_the_order_gets_its_epoch_from_the_step():
    from types import SimpleNamespace

    from semattn.pretraining.trainer import EpochSetter

    order = EpochSampler(5, seed=3)
    first = list(order)
    assert sorted(first) == [(0, index) for index in range(5)]
    EpochSetter(order, steps_per_epoch=4).on_epoch_begin(
        None, SimpleNamespace(global_step=10), None
    )
    later = list(order)
    assert sorted(later) == [(2, index) for index in range(5)]
    assert [index for _, index in first] != [index for _, index in later]


def test_incomplete_checkpoints_are_ignored(tmp_path):
    assert latest(tmp_path, tidy=True) is None
    for step, is_complete in ((5, True), (40, True), (100, False)):
        checkpoint = tmp_path / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        if is_complete:
            (checkpoint / "complete.json").write_text("{}")
    assert latest(tmp_path, tidy=False).name == "checkpoint-40"
    assert (tmp_path / "checkpoints" / "checkpoint-100").exists()
    latest(tmp_path, tidy=True)
    assert not (tmp_path / "checkpoints" / "checkpoint-100").exists()


def test_nothing_in_a_checkpoint_can_run_code(uninterrupted):
    """All files that transformers loads can be read with ``weights_only``."""
    from transformers import trainer, trainer_pt_utils

    safe_globals = getattr(trainer_pt_utils, "safe_globals", None) or trainer.safe_globals
    checkpoint = latest(uninterrupted, tidy=False)
    with safe_globals():
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.load(checkpoint / name, weights_only=True)


def test_data_is_a_function_of_its_key(tmp_path):
    data = MaskedImages(pictures(), options()["masking"], size=32, patch_size=8, density="other")
    first = data[2, 5]
    data[3, 1], data[2, 4]
    again = MaskedImages(pictures(), options()["masking"], size=32, patch_size=8, density="other")
    assert all(torch.equal(first[name], again[2, 5][name]) for name in first)
    assert not torch.equal(first["noise"], data[3, 5]["noise"])
    assert not torch.equal(first["pixel_values"], data[3, 5]["pixel_values"])


def test_density_other_uses_the_keypoints_of_another_picture():
    """A smooth picture is masked by the keypoints of the other picture."""
    smooth, textured = np.full((32, 32, 3), 99, np.uint8), pictures(1)[0]
    from semattn.masking import GuidedMasking

    totals = {}
    for density in ("count", "other"):
        data = MaskedImages(
            [smooth, textured], GuidedMasking(beta=1e3), density=density, size=32, patch_size=8,
        )  # fmt: skip
        crop = data.crop((32, 32), 0, 0)
        cropped = np.array(crop.image(data.picture(0)))
        totals[density] = data.densities(cropped, crop, 0, 0).sum()
    assert totals["count"] == 0 < totals["other"]
