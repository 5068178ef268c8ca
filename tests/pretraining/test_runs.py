"""Whole runs: killed and resumed, in two processes, weighted, in half precision."""

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
from semattn.pretraining import FixedMasks, MaskedImages, Order, build_model, features, pretrain
from semattn.pretraining.checkpoints import RunError, latest
from semattn.pretraining.reconstruction import masked_loss
from tests.pretraining.runs import TINY, options, pictures
from tests.result_files import names_in

ROOT = Path(__file__).parents[2]


def start(out, *launcher, check=True, **settings):
    """The run of `runs.py` in processes of its own."""
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
    """What is in the file, under the names that it has there."""
    return load_file(out / "model" / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def seen(out):
    found = [json.loads(path.read_text()) for path in sorted(out.glob("seen-*.json"))]
    return [{(epoch, index): content for epoch, index, content in one["seen"]} for one in found]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the processes that are started: sums of another number of threads have other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run left alone, in this process."""
    out = tmp_path_factory.mktemp("alone")
    made = pretrain(pictures(), out, **options())
    assert made.resumed == 0 and made.main
    return out


@pytest.mark.parametrize(
    ("stop", "more"),
    [(7, {}), (8, {"checkpoint_steps": 4})],
    ids=["in the second epoch", "at a checkpoint within an epoch"],
)
def test_a_killed_run_ends_with_the_same_weights(alone, tmp_path, stop, more):
    killed = start(tmp_path, stop=stop, check=False, **more)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    assert json.loads((tmp_path / "pretrain.json").read_text())["finished"] is False
    # as if it had been killed while a later checkpoint was written
    (tmp_path / "checkpoints" / "checkpoint-11").mkdir()
    (tmp_path / "checkpoints" / "checkpoint-11" / "model.safetensors").write_bytes(b"half")
    resumed = pretrain(pictures(), tmp_path, **options(**more))
    assert resumed.resumed == (6 if not more else 4)
    assert same(weights(tmp_path), weights(alone))
    assert not (tmp_path / "checkpoints" / "checkpoint-11").exists()
    assert json.loads((tmp_path / "pretrain.json").read_text())["finished"] is True
    if not more:
        ours, theirs = (
            [json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()]
            for one in (tmp_path, alone)
        )
        assert [one["loss"] for one in ours] == [one["loss"] for one in theirs]
        assert [one["step"] for one in ours] == [3, 6, 9, 12]
        seconds = [one["seconds"] for one in ours]
        assert seconds == sorted(seconds) and seconds[0] > 0


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run in one process, which wrote down what it saw."""
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
    """A port that nobody listens at: accelerate finds none of its own before 1.4."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_see_what_one_sees_and_learn_the_same(alone, one, tmp_path, launcher):
    port = ("--main_process_port", str(free_port())) if launcher == "accelerate" else ()
    start(tmp_path, "-m", *LAUNCHERS[launcher], *port)
    (whole,), parts = seen(one), seen(tmp_path)
    assert len(parts) == 2 and not parts[0].keys() & parts[1].keys(), "each image in one process"
    assert parts[0] | parts[1] == whole and len(whole) == 4 * 24
    assert same(weights(one), weights(alone))
    ours, theirs = weights(tmp_path), weights(alone)
    for name in ours:  # sums in another order
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
    assert names_in(tmp_path) == [
        "checkpoints", "keypoints", "metrics.jsonl", "model", "pretrain.json", "seen-0.json",
        "seen-1.json",
    ]  # fmt: skip


def test_loading_in_the_background_changes_nothing(alone, tmp_path):
    pretrain(pictures(), tmp_path, **options(workers=2))
    assert same(weights(tmp_path), weights(alone))


def test_a_finished_run_is_not_run_again(alone):
    before = (alone / "metrics.jsonl").read_text()
    again = pretrain(pictures(), alone, **options(progress=None))
    assert again.resumed == 12
    assert (alone / "metrics.jsonl").read_text() == before
    assert len(again.log) == 4


def test_another_run_is_refused_there(alone):
    with pytest.raises(RunError, match="expected a run with seed 2, got .* with 1"):
        pretrain(pictures(), alone, **options(seed=2))
    with pytest.raises(RunError, match="expected a run with pictures 16, got .* with 24"):
        pretrain(pictures(16), alone, **options())


@pytest.mark.parametrize("more", [
    {"masking": RandomMasking(), "precision": "bfloat16"},
    {"masking": BlockwiseMasking(0.5), "loss_weight": "kamim-relative", "keypoints": "detect"},
    {"density": "other"}, {"density": "sobel"}, {"density": "shifted", "keypoints": "detect"},
], ids=str)  # fmt: skip
def test_every_kind_of_run_learns(more, tmp_path):
    called = []
    made = pretrain(
        pictures(), tmp_path,
        **options(epochs=2, validation=pictures(8), learning_rate=0.03,
                  after_epoch=lambda run, done, seconds: called.append((done, seconds)), **more),
    )  # fmt: skip
    assert [done for done, _ in called] == [1, 2]
    held = [line["eval_loss"] for line in made.log if "eval_loss" in line]
    assert len(held) == 2 and held[1] < held[0]
    needs = more.get("density") != "sobel" and type(more.get("masking")) is not RandomMasking
    assert (tmp_path / "keypoints").exists() == (needs and more.get("keypoints") != "detect")


def test_the_loss_under_fixed_masks_is_the_models_own(tmp_path):
    made = pretrain(pictures(), tmp_path, **options(epochs=1, validation=pictures(8)))
    data = FixedMasks(made.data, pictures(8))
    items = [data[i] for i in range(8)]
    pixels, noise = (torch.stack([one[key] for one in items]) for key in ("pixel_values", "noise"))
    with torch.no_grad():
        loss = made.model.eval()(pixels, noise=noise).loss.item()
    (logged,) = [line["eval_loss"] for line in made.log if "eval_loss" in line]
    assert logged == pytest.approx(loss, rel=1e-5)


def test_the_picture_is_drawn_at_the_end(tmp_path):
    pretrain(pictures(), tmp_path, **options(epochs=1, reconstructions=3))
    assert (tmp_path / "reconstruction.png").stat().st_size > 10_000


@pytest.mark.parametrize(("more", "said"), [
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
def test_what_is_refused(more, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        pretrain(pictures(), tmp_path / "out", **options(**more))


def test_features_are_those_of_the_whole_image():
    model = build_model(TINY, image_size=32, patch_size=8)
    pixels = torch.rand(2, 3, 32, 32)
    found = features(model, pixels)
    assert found.shape == features(model, pixels, "class").shape == (2, 16)
    assert torch.equal(found, features(model, pixels)), "nothing is drawn"
    assert model.config.mask_ratio == 0.75 and model.training
    pixels[0, :, 24:, 24:] = 0  # each patch counts
    changed = features(model, pixels)
    assert not torch.allclose(changed[0], found[0]) and torch.equal(changed[1], found[1])


def test_a_saved_model_is_gone_on_from(alone, tmp_path):
    model = build_model(alone / "model", image_size=32, patch_size=8)
    trained = pretrain(pictures(), alone, **options()).model
    assert same(dict(model.state_dict()), dict(trained.state_dict()))
    model.save_pretrained(tmp_path / "model")
    assert same(weights(tmp_path), weights(alone))
    with pytest.raises(ValueError, match="expected image size 64"):
        build_model(alone / "model", image_size=64, patch_size=8)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_weighted_loss_is_that_of_a_slow_loop(normalised):
    chance = torch.Generator().manual_seed(0)
    predicted, target = torch.rand(2, 3, 5, 12, generator=chance, dtype=torch.float64)
    mask = torch.tensor([[1.0, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 0, 0]], dtype=torch.float64)
    weight = 1 + 5 * torch.rand(3, 5, generator=chance, dtype=torch.float64)
    images = []
    for i in range(3):
        total = parts = 0.0
        for p in range(5):
            if mask[i, p]:
                wanted = target[i, p]
                if normalised:
                    wanted = (wanted - wanted.mean()) / (wanted.var() + 1e-6).sqrt()
                total += weight[i, p] * ((predicted[i, p] - wanted) ** 2).mean()
                parts += weight[i, p]
        images.append(total / parts)
    made = masked_loss(predicted, target, mask, weight, normalised)
    assert made.item() == pytest.approx(float(sum(images) / 3), rel=1e-12)


def test_with_equal_weights_it_is_the_models_own_loss():
    model = build_model(TINY, image_size=32, patch_size=8)
    pixels = torch.rand(4, 3, 32, 32)
    out = model(pixels, noise=torch.rand(4, 16))
    equal = masked_loss(
        out.logits, model.patchify(pixels), out.mask, torch.full((4, 16), 3.0), True
    )
    assert equal.item() == pytest.approx(out.loss.item(), rel=1e-6)


def test_the_order_knows_its_epoch_from_the_step():
    from types import SimpleNamespace

    from semattn.pretraining.callbacks import EpochSetter

    order = Order(5, seed=3)
    first = list(order)
    assert sorted(first) == [(0, index) for index in range(5)]
    EpochSetter(order, steps=4).on_epoch_begin(None, SimpleNamespace(global_step=10), None)
    later = list(order)
    assert sorted(later) == [(2, index) for index in range(5)]
    assert [index for _, index in first] != [index for _, index in later]


def test_only_whole_checkpoints_count(tmp_path):
    assert latest(tmp_path, tidy=True) is None
    for step, whole in ((5, True), (40, True), (100, False)):
        place = tmp_path / "checkpoints" / f"checkpoint-{step}"
        place.mkdir(parents=True)
        if whole:
            (place / "complete.json").write_text("{}")
    assert latest(tmp_path, tidy=False).name == "checkpoint-40"
    assert (tmp_path / "checkpoints" / "checkpoint-100").exists()
    latest(tmp_path, tidy=True)
    assert not (tmp_path / "checkpoints" / "checkpoint-100").exists()


def test_nothing_in_a_checkpoint_can_run_code(alone):
    """What transformers reads of a checkpoint passes torch's reader of tensors alone."""
    from transformers import trainer, trainer_pt_utils

    safe_globals = getattr(trainer_pt_utils, "safe_globals", None) or trainer.safe_globals
    place = latest(alone, tidy=False)
    with safe_globals():
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.load(place / name, weights_only=True)


def test_data_is_a_function_of_its_key(tmp_path):
    data = MaskedImages(pictures(), options()["masking"], size=32, patch_size=8, density="other")
    first = data[2, 5]
    data[3, 1], data[2, 4]
    again = MaskedImages(pictures(), options()["masking"], size=32, patch_size=8, density="other")
    assert all(torch.equal(first[name], again[2, 5][name]) for name in first)
    assert not torch.equal(first["noise"], data[3, 5]["noise"])
    assert not torch.equal(first["pixel_values"], data[3, 5]["pixel_values"])


def test_another_images_keypoints_guide():
    """Of two pictures, one smooth, each is masked by the keypoints of the other."""
    smooth, textured = np.full((32, 32, 3), 99, np.uint8), pictures(1)[0]
    from semattn.masking import GuidedMasking

    made = {}
    for density in ("count", "other"):
        data = MaskedImages(
            [smooth, textured], GuidedMasking(beta=1e3), density=density, size=32, patch_size=8,
        )  # fmt: skip
        crop = data.crop((32, 32), 0, 0)
        seen_ = np.array(crop.image(data.picture(0)))
        made[density] = data.densities(seen_, crop, 0, 0).sum()
    assert made["count"] == 0 < made["other"]
