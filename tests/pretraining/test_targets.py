"""Tests of runs with descriptor targets: heads, saved models, resuming, two processes, pictures."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")

from transformers import ViTMAEForPreTraining, ViTMAEModel, ViTModel

from semattn.images import Preprocessing
from semattn.masking import (
    DescriptorWords,
    descriptor_targets,
    load_words,
    masked_target_loss,
    patch_targets,
)
from semattn.pretraining import FixedMasks, MaskedImages, build_model, load_model, pretrain
from semattn.pretraining.checkpoints import RunError
from semattn.pretraining.models import model_targets
from semattn.pretraining.reconstruction import reconstruct, target_views
from semattn.pretraining.targets import ViTMAEForTargets, prepare_words
from semattn.utils.processes import ignore_progress
from semattn.viz.reconstruction_figure import STROKE_CELL, draw_view, orientation_strokes
from tests.pretraining.runs import TINY, options, pictures
from tests.pretraining.test_runs import (
    LAUNCHERS,
    equal_weights,
    one_thread,  # noqa: F401 — used by all tests
    recorded_items,
    start,
    weights,
)

WORDS = {"target": "words", "words": 8, "window": 12.0, "loss_weight": "keypoints"}
SUM = {"target": "sift+pixels", "window": 12.0, "loss_weight": "keypoints-linear"}


def test_the_encoder_and_decoder_start_as_those_of_the_pixel_model():
    pixels = build_model(TINY, image_size=32, patch_size=8, seed=3)
    model = build_model(TINY, image_size=32, patch_size=8, target="hog", seed=3)
    assert isinstance(model, ViTMAEForTargets)
    assert model.target_head.weight.shape == (36, 16)
    assert 0 < model.target_head.weight.std() < 0.1 and not model.target_head.bias.any()
    expected, actual = pixels.state_dict(), model.state_dict()
    shared = [name for name in expected if "decoder_pred" not in name]
    assert {*actual} == {*shared, "target_head.weight", "target_head.bias"}
    assert all(torch.equal(actual[name], expected[name]) for name in shared)
    again = build_model(TINY, image_size=32, patch_size=8, target="hog", seed=3)
    assert equal_weights(dict(model.state_dict()), dict(again.state_dict()))
    images, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 16)
    out = model(images, noise=noise)
    assert out.loss is None and out.logits.shape == (2, 16, 36)
    assert torch.equal(out.mask, pixels(images, noise=noise).mask)


def test_pixels_need_no_other_model():
    model = build_model(TINY, image_size=32, patch_size=8)
    assert type(model) is ViTMAEForPreTraining
    assert build_model(model, image_size=32, patch_size=8) is model
    assert not hasattr(model.config, "target")


@pytest.mark.parametrize("more", [{}, {"loss_weight": "keypoints"}], ids=["equal", "weighted"])
@pytest.mark.parametrize("target", ["sift", "sift+pixels", "words"])
def test_the_loss_of_a_step_is_the_loss_of_the_targets(target, more, tmp_path):
    """The trainer's loss, on normalised inputs, against descriptors of the crop's own pixels."""
    from types import SimpleNamespace

    from semattn.pretraining.trainer import MaskedTrainer

    data = MaskedImages(pictures(4), options()["masking"], size=32, patch_size=8, **more)
    model = build_model(TINY, image_size=32, patch_size=8, target=target, words=6, window=12)
    words = DescriptorWords(torch.rand(6, 128), "sift", 8, 12.0) if target == "words" else None
    items = [data[0, index] for index in range(4)]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(unwrap_model=lambda model: model),
        preprocessing=data.preprocessing, words=words,
    )  # fmt: skip
    loss, out = MaskedTrainer.compute_loss(trainer, model, batch, return_outputs=True)
    crops = [
        np.array(data.crop(picture.size, 0, index).image(picture))
        for index in range(4) for picture in [data.picture(index)]
    ]  # fmt: skip
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    name = "sift" if words else target
    expected = descriptor_targets(images, name, patch_size=8, window=12)
    if words:
        expected = torch.cdist(expected, words.centres.expand(4, -1, -1)).argmin(-1)
    weight = batch.get("loss_weight")
    losses = [
        masked_target_loss(
            out.logits[i : i + 1], expected[i : i + 1], out.mask[i : i + 1],
            None if weight is None else weight[i : i + 1],
        ).item()
        for i in range(4)
    ]  # fmt: skip
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-6)
    assert (weight is None) == (not more)


@pytest.mark.parametrize("target", ["sift", "words"])
def test_saved_models_load(target, tmp_path):
    """The encoder loads completely, and a model for pixels says that its head is new."""
    run = pretrain(
        pictures(), tmp_path / "run", **options(epochs=1, target=target, words=5, window=12)
    )
    folder = tmp_path / "run" / "model"
    loaded = load_model(folder)
    assert equal_weights(dict(loaded.state_dict()), dict(run.model.state_dict()))
    assert loaded.config.target == target and loaded.config.target_window == 12
    assert type(loaded) is ViTMAEForTargets
    encoder = dict(run.model.vit.state_dict())
    for network_class, more in ((ViTMAEModel, {}), (ViTModel, {"add_pooling_layer": False})):
        model, report = network_class.from_pretrained(folder, output_loading_info=True, **more)
        assert not report["missing_keys"] and not report["mismatched_keys"]
        assert equal_weights(dict(model.state_dict()), encoder)
    pixel_model, report = ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert {*report["missing_keys"]} == {
        "decoder.decoder_pred.weight", "decoder.decoder_pred.bias"
    } and not report["mismatched_keys"]  # fmt: skip
    assert equal_weights(dict(pixel_model.vit.state_dict()), encoder)


def test_a_saved_model_continues_with_any_target(tmp_path):
    sizes = {"image_size": 32, "patch_size": 8}
    sift = build_model(TINY, **sizes, target="sift", seed=1)
    sift.save_pretrained(tmp_path / "sift")
    same = build_model(tmp_path / "sift", **sizes, target="sift", seed=2)
    assert equal_weights(dict(same.state_dict()), dict(sift.state_dict()))
    changes = [{"target": "hog"}, {"target": "sift", "window": 24}, {"target": "words"}, {}]
    for change in changes:
        model = build_model(tmp_path / "sift", **sizes, **change, seed=2)
        assert equal_weights(dict(model.vit.state_dict()), dict(sift.vit.state_dict()))
        assert torch.equal(model.decoder.mask_token, sift.decoder.mask_token)
        assert getattr(model.config, "target", "pixels") == change.get("target", "pixels")
        assert getattr(model.config, "target_window", 16) == change.get("window", 16)
        head = model.target_head if change else model.decoder.decoder_pred
        assert head.weight.shape != (128, 16) or not torch.equal(
            head.weight, sift.target_head.weight
        )
        torch.manual_seed(99)  # the head depends on its seed only
        again, other = (
            build_model(tmp_path / "sift", **sizes, **change, seed=seed) for seed in (2, 3)
        )
        assert equal_weights(dict(again.state_dict()), dict(model.state_dict()))
        assert not equal_weights(dict(other.state_dict()), dict(model.state_dict()))
    assert type(model) is ViTMAEForPreTraining
    words = build_model(TINY, **sizes, target="words", words=5, seed=1)
    old_head = words.target_head.weight.clone()
    again = build_model(words, **sizes, target="words", words=5, seed=2)
    assert not torch.equal(again.target_head.weight, old_head), "words of a new run are others"
    assert torch.equal(words.target_head.weight, old_head)
    assert sift.config.target == "sift" and sift.target_head.weight.shape == (128, 16)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Return the folders of uninterrupted runs of both kinds of targets."""
    folders = {}
    for name, more in (("words", WORDS), ("sum", SUM)):
        folders[name] = tmp_path_factory.mktemp(name)
        pretrain(pictures(), folders[name], **options(validation=pictures(8), **more))
    return folders


@pytest.mark.parametrize(("name", "more"), [("words", WORDS), ("sum", SUM)])
def test_a_killed_run_ends_with_the_same_weights(uninterrupted, tmp_path, name, more):
    killed = start(tmp_path, stop=8, check=False, checkpoint_steps=4, **more)
    assert killed.returncode == -signal.SIGKILL
    words = (tmp_path / "words.npz").read_bytes() if name == "words" else b""
    resumed = pretrain(pictures(), tmp_path, **options(checkpoint_steps=4, **more))
    assert resumed.resumed == 4
    assert equal_weights(weights(tmp_path), weights(uninterrupted[name]))
    if name == "words":
        assert (tmp_path / "words.npz").read_bytes() == words, "words are fitted once"
        first, second = (load_words(out / "words.npz") for out in (tmp_path, uninterrupted[name]))
        assert torch.equal(first.centres, second.centres)
        assert torch.equal(resumed.words.centres, first.centres)


def test_two_processes_compute_the_same_targets_and_learn_the_same(uninterrupted, tmp_path):
    start(tmp_path, "-m", *LAUNCHERS["torchrun"], **WORDS)
    parts = recorded_items(tmp_path)
    assert len(parts) == 2 and not parts[0].keys() & parts[1].keys()
    first, second = (load_words(out / "words.npz") for out in (tmp_path, uninterrupted["words"]))
    assert torch.equal(first.centres, second.centres)
    actual, expected = weights(tmp_path), weights(uninterrupted["words"])
    for name in actual:  # sums in another order
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("change", "message"), [
    ({"target": "sift"}, "expected a run with"),
    ({"target": "pixels"}, "expected a run with"),
    ({"window": 16.0}, "expected a run with"),
    ({"words": 9}, "expected a run with"),
    ({"loss_weight": "none"}, "expected a run with loss_weight 'none'"),
])  # fmt: skip
def test_a_run_with_another_target_is_refused(uninterrupted, change, message):
    with pytest.raises(RunError, match=message):
        pretrain(pictures(), uninterrupted["words"], **options(**(WORDS | change)))


def test_settings_and_losses_are_written(uninterrupted):
    about = json.loads((uninterrupted["words"] / "pretrain.json").read_text())
    assert about["settings"]["target"] == "words" and about["settings"]["words"] == 8
    assert about["settings"]["window"] == 12 and about["words_seconds"] > 0
    lines = [
        json.loads(line)
        for line in (uninterrupted["words"] / "metrics.jsonl").read_text().splitlines()
    ]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[0] == pytest.approx(np.log(8), rel=0.3) and losses[-1] < losses[0]
    assert all(line["seconds"] >= about["words_seconds"] for line in lines if "seconds" in line)


def test_the_evaluation_uses_the_target(uninterrupted):
    folder = uninterrupted["sum"]
    model = load_model(folder / "model").eval()
    data = MaskedImages(pictures(), options()["masking"], size=32, patch_size=8)
    fixed = FixedMasks(data, pictures(8))
    items = [fixed[i] for i in range(8)]
    pixels, noise = (
        torch.stack([item[key] for item in items]) for key in ("pixel_values", "noise")
    )
    targets = patch_targets(
        pixels, "sift+pixels", patch_size=8, window=12, preprocessing=data.preprocessing
    )
    with torch.no_grad():
        out = model(pixels, noise=noise)
    expected = masked_target_loss(out.logits, targets, out.mask).item()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = [line["eval_loss"] for line in lines if "eval_loss" in line]
    assert logged[-1] == pytest.approx(expected, rel=1e-4) and logged[-1] < logged[0]


@pytest.mark.parametrize("more", [
    {"target": "hog", "precision": "bfloat16"},
    {"target": "words", "words": 8, "precision": "bfloat16", "loss_weight": "kamim"},
    {"target": "colour+pixels", "loss_weight": "keypoints", "keypoints": "detect"},
], ids=str)  # fmt: skip
def test_all_kinds_of_targets_reduce_the_loss(more, tmp_path):
    result = pretrain(
        pictures(), tmp_path,
        **options(epochs=2, validation=pictures(8), learning_rate=0.03, **more),
    )  # fmt: skip
    first, second = [line["eval_loss"] for line in result.log if "eval_loss" in line]
    assert second < first
    assert all(parameter.isfinite().all() for parameter in result.model.parameters())


def test_a_run_of_an_earlier_version_resumes(tmp_path):
    pretrain(pictures(), tmp_path, **options(epochs=1))
    about = json.loads((tmp_path / "pretrain.json").read_text())
    for name in ("target", "window", "words"):
        del about["settings"][name]
    (tmp_path / "pretrain.json").write_text(json.dumps(about))
    assert pretrain(pictures(), tmp_path, **options(epochs=1)).resumed == 3
    with pytest.raises(RunError, match="expected a run with"):
        pretrain(pictures(), tmp_path, **options(epochs=1, target="sift"))


@pytest.mark.parametrize(("more", "message"), [
    ({"target": "shift"}, r"target: unknown name 'shift' — did you mean 'sift'\?.*words"),
    ({"target": "sift+word"}, "target: unknown name 'word'"),
    ({"target": "words", "words": 1}, "words: expected"),
    ({"target": "words", "words": 10_000}, "words: expected at most 384"),
    ({"target": "sift", "window": 0}, "window: expected"),
    ({"loss_weight": "keypoint"}, "loss_weight: unknown name"),
])  # fmt: skip
def test_invalid_options_are_refused(more, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pretrain(pictures(), tmp_path / "out", **options(**more))


def test_other_words_are_refused(tmp_path):
    data = MaskedImages(pictures(), options()["masking"], size=32, patch_size=8)
    settings = {"seed": 0, "progress": ignore_progress}
    path = tmp_path / "words.npz"
    words, seconds = prepare_words(path, data, 8, 12.0, is_fitted=False, **settings)
    assert len(words) == 8 and seconds > 0
    again, seconds = prepare_words(path, data, 8, 12.0, is_fitted=True, **settings)
    assert torch.equal(words.centres, again.centres) and seconds == 0
    with pytest.raises(RunError, match=r"^words: expected 9 words[^\n]*$"):
        prepare_words(path, data, 9, 12.0, is_fitted=True, **settings)


@pytest.mark.parametrize("target", ["sift", "hog+colour", "sift+pixels", "words"])
def test_the_picture_shows_targets_and_predictions(target, tmp_path):
    run = pretrain(
        pictures(), tmp_path,
        **options(epochs=1, reconstructions=2, target=target, words=5, window=12),
    )  # fmt: skip
    assert (tmp_path / "reconstruction.png").stat().st_size > 10_000
    result = reconstruct(run.model, run.data, [0, 5], words=run.words)
    names = {"words": ["words"], "hog+colour": ["hog", "colour"]}.get(target, ["sift"])
    assert [view.name for view in result.views] == names
    assert (result.reconstructed is None) == ("pixels" not in target)
    images = torch.from_numpy(result.pixels).permute(0, 3, 1, 2)
    for view in result.views:
        expected = descriptor_targets(
            images, "sift" if target == "words" else view.name, patch_size=8, window=12
        ).numpy()
        actual = view.target.reshape(expected.shape)
        if target == "words":
            words = run.words.targets(images)
            expected = run.words.centres[words].numpy()
            scores = torch.eye(5)[words] + 0.1
            (right,) = target_views("words", words, scores, run.words)
            (wrong,) = target_views("words", words, scores.roll(1, -1), run.words)
            np.testing.assert_array_equal(right.predicted, right.target)
            np.testing.assert_array_equal(
                wrong.predicted.reshape(expected.shape), run.words.centres[(words + 1) % 5]
            )
        np.testing.assert_allclose(actual, expected, atol=1e-5)
    if result.reconstructed is not None:  # visible patches are those of the image
        visible = (
            result.grid.upsample(torch.from_numpy(result.masked).float(), mode="nearest").numpy()
            < 0.5
        )
        np.testing.assert_array_equal(result.reconstructed[visible], result.pixels[visible])


def test_a_perfect_prediction_reconstructs_the_image():
    """A head that outputs the target gives the image and the views of the target."""
    data = MaskedImages(pictures(2), options()["masking"], size=32, patch_size=8)
    model = build_model(TINY, image_size=32, patch_size=8, target="sift+pixels", window=12)
    forward = model.forward

    def perfect(pixel_values, noise):
        out = forward(pixel_values, noise=noise)
        out.logits = model_targets(model.config, pixel_values, data.preprocessing)
        return out

    model.forward = perfect
    result = reconstruct(model, data, [0, 1])
    difference = result.reconstructed.astype(int) - result.pixels
    assert np.abs(difference).max() <= 1
    assert result.error.max() < 1e-10
    np.testing.assert_array_equal(result.views[0].target, result.views[0].predicted)


def test_targets_undo_the_normalisation_of_the_data():
    model = build_model(TINY, image_size=32, patch_size=8, target="sift+colour", window=12)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    grey = Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3)
    pixels = grey.inputs(images.permute(0, 2, 3, 1).numpy())
    expected = descriptor_targets(images, "sift+colour", patch_size=8, window=12)
    assert torch.equal(model_targets(model.config, pixels, grey), expected)


def test_strokes_point_along_the_gradient():
    side = STROKE_CELL
    middle = side // 2
    for number, (row, column) in enumerate([(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1),
                                            (1, 0), (1, 1)]):  # fmt: skip
        values = np.zeros((1, 1, 8))
        values[0, 0, number] = 1
        ink = orientation_strokes(values)
        assert ink.shape == (side, side)
        assert ink[middle + 2 * row, middle + 2 * column] > 0.5
        assert ink[middle - 2 * row, middle - 2 * column] == 0, "to one side"
    values = np.zeros((1, 1, 9))
    values[0, 0, 4] = 1  # 90 degrees, unsigned
    ink = orientation_strokes(values)
    assert ink[middle + 3, middle] > 0.5 and ink[middle - 3, middle] > 0.5
    assert ink[middle, middle + 3] == 0
    assert not orientation_strokes(np.zeros((2, 3, 8))).any()
    short, long = (orientation_strokes(np.eye(8)[0][None, None] * x).sum() for x in (0.4, 1))
    assert 0 < short < 0.6 * long


def test_cells_are_drawn_at_their_place():
    """One cell with a gradient, in the second patch of the second row."""
    target = torch.zeros(1, 6, 128)
    target[0, 4, 8 * (4 * 1 + 2) :][:8] = 1  # cell in row 1, column 2
    (view,) = target_views("sift", target, target, patch_size=16)
    picture, predicted = draw_view(view, 0, np.ones(6, bool), (2, 3))
    ink = 1 - picture.mean(-1)
    rows, columns = np.nonzero(ink > 0.3)
    side = STROKE_CELL
    assert {*(rows // side)} == {4 + 1} and {*(columns // side)} == {4 + 2}
    np.testing.assert_array_equal(picture, predicted)
    _, visible = draw_view(view, 0, np.zeros(6, bool), (2, 3))
    assert visible.min() > predicted.min() + 0.5, "visible patches are grey"
