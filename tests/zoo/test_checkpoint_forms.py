"""The same weights in every wrapping give the same logits; what was assumed is said."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from semattn.zoo import WeightsError, load
from tests.checkpoint_wrappings import CONTENTS, prefixed, random_wrapping, write_wrapping
from tests.conftest import PHOTO, refused

TINY = "test_vit"
CASES = 40  # of random wrappings


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    result = []
    for seed in range(2):
        torch.manual_seed(seed)
        result.append(timm.create_model(TINY, num_classes=5).state_dict())
    return result[0], result[1]


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))


def quiet_load(checkpoint, name=TINY):
    """Load a model, and return it with the notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(name, checkpoint=checkpoint)
    return model, [str(warning.message) for warning in caught]


def logits_of(state, image):
    model = timm.create_model(TINY, num_classes=5).eval()
    model.load_state_dict(state)
    return model(image)


def check(wrapping, states, image):
    """Check that two sets are refused with their labels, and that a selected one is bit-equal."""
    if wrapping.choices:
        with pytest.raises(WeightsError, match="expected one set of weights") as error:
            load(TINY, checkpoint=wrapping.file)
        for label in wrapping.choices:
            assert f"{wrapping.file}#{label}" in str(error.value)
        for number, label in enumerate(wrapping.choices):  # each advice works
            model, notes = quiet_load(f"{wrapping.file}#{label}")
            assert len(notes) == 1 and "the file also holds" in notes[0]
            same = [torch.equal(model(image), logits_of(state, image)) for state in states]
            assert sorted(same) == [False, True], (number, label)
    model, notes = quiet_load(wrapping.given)
    assert torch.equal(model(image), logits_of(states[0], image)), wrapping
    assert len(notes) <= 1 and all("\n" not in note for note in notes)
    return notes


@pytest.mark.parametrize("name", CONTENTS)
def test_a_wrapping_gives_the_same_logits(name, tmp_path, states, image):
    notes = check(write_wrapping(name, tmp_path, *states), states, image)
    plain = name in ("prefix ", "entry state_dict", "entry model", "DeiT or MAE", "date", "inside",
                     "equal twice")  # fmt: skip
    assert bool(notes) != plain


def test_random_wrappings_give_the_same_logits(tmp_path, states, image):
    for seed in range(CASES):
        check(random_wrapping(seed, tmp_path, *states), states, image)


def test_the_note_says_what_was_assumed(tmp_path, states):
    content = {
        "state_dict": states[1],
        "state_dict_ema": prefixed(states[0], "module.") | {"n_averaged": torch.tensor(1)},
    }
    torch.save(content, tmp_path / "last.pth")
    _, notes = quiet_load(f"{tmp_path / 'last.pth'}#state_dict_ema")
    expected = (
        "checkpoint: weights of 'state_dict_ema' (EMA; the file also holds 'state_dict'), "
        "prefix 'module.' removed, 1 other tensor ignored (n_averaged)"
    )
    assert notes == [expected]


def test_a_label_that_the_file_lacks_lists_those_it_has(tmp_path, states):
    torch.save({"model": states[0], "ema": states[1]}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="none called 'teacher'") as error:
        load(TINY, checkpoint=f"{tmp_path / 'w.pt'}#teacher")
    assert "w.pt#model or " in str(error.value) and "w.pt#ema" in str(error.value)


def test_a_label_of_equal_sets_is_a_label(tmp_path, states, image):
    torch.save({"model": states[0], "ema": dict(states[0])}, tmp_path / "w.pt")
    model, notes = quiet_load(f"{tmp_path / 'w.pt'}#ema")
    assert notes == ["checkpoint: weights of 'ema' (EMA; the file also holds 'model')"]
    assert torch.equal(model(image), logits_of(states[0], image))


def test_a_file_whose_name_has_a_hash(tmp_path, states, image):
    torch.save(states[0], tmp_path / "run#3.pt")
    model, notes = quiet_load(tmp_path / "run#3.pt")
    assert not notes and torch.equal(model(image), logits_of(states[0], image))


def test_weights_before_and_after_training_of_mae(tmp_path, states, image):
    """Pre-training: a decoder and no classifier; fine-tuning: the mean of the patches."""
    body = {key: tensor for key, tensor in states[0].items() if not key.startswith("head.")}
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, 5, 8),
               "decoder_blocks.0.norm1.weight": torch.ones(8)}  # fmt: skip
    torch.save({"model": body | decoder, "args": argparse.Namespace()}, tmp_path / "pre.pth")
    model, notes = quiet_load(tmp_path / "pre.pth")
    assert model.num_classes == 0
    assert "3 other tensors ignored (decoder_blocks.0.norm1.weight, " in notes[0]
    assert "no classifier in the file: the model returns features (num_classes=0)" in notes[0]
    bare = timm.create_model(TINY, num_classes=0).eval()
    bare.load_state_dict(body)
    assert torch.equal(model(image), bare(image))

    averaging = timm.create_model("vit_tiny_patch16_224", num_classes=5, global_pool="avg").eval()
    torch.save({"model": averaging.state_dict()}, tmp_path / "fine.pth")
    model, _ = quiet_load(tmp_path / "fine.pth", "vit_tiny_patch16_224")
    picture = torch.rand(1, 3, 224, 224)
    assert torch.equal(model(picture), averaging(picture))


def test_a_projector_in_place_of_the_classifier_is_ignored(tmp_path, states):
    state = {
        f"base_encoder.{key}": tensor for key, tensor in states[0].items() if "head" not in key
    }
    state |= {
        "base_encoder.head.0.weight": torch.ones(4, 4),
        "base_encoder.head.1.bias": torch.ones(4),
    }
    save_file(state, tmp_path / "moco.safetensors")
    model, notes = quiet_load(tmp_path / "moco.safetensors")
    assert model.num_classes == 0 and "2 other tensors ignored (base_encoder.head.0" in notes[0]


@pytest.mark.parametrize("key", ["blocks.12.norm1.weight", "dist_token", "blocks.0.ls1.gamma"])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_of_a_larger_model_are_refused(tmp_path, states, key, prefix):
    """Tensors that change the prediction are never ignored."""
    save_file(prefixed({**states[0], key: torch.ones(1)}, prefix), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=f"has unknown '{prefix}{key}'"):
        load(TINY, checkpoint=tmp_path / "w.safetensors")


def test_a_deeper_model_is_refused(tmp_path):
    deep = timm.create_model("vit_tiny_patch16_224", depth=13).state_dict()
    torch.save(deep, tmp_path / "deep.pt")
    with pytest.raises(WeightsError, match=r"has unknown 'blocks.12.attn.proj.bias' \(and 11 more"):
        load("vit_tiny_patch16_224", checkpoint=tmp_path / "deep.pt")


def test_position_embeddings_of_another_size_name_both(tmp_path):
    large = timm.create_model("vit_tiny_patch16_384")
    torch.save({"model": large.state_dict()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError) as error:
        load("vit_tiny_patch16_224", checkpoint=tmp_path / "w.pt")
    assert (
        "expected pos_embed (1, 197, 192) for 'vit_tiny_patch16_224', got (1, 577, 192) (24x24 "
        "patches in place of 14x14) in" in str(error.value)
    )
    assert "give the architecture for that image size" in str(error.value)
    assert load("vit_tiny_patch16_384", checkpoint=tmp_path / "w.pt").num_classes == 1000


def test_the_set_that_fits_the_architecture_is_taken(tmp_path, states, image):
    """A small student and its large teacher, of one depth."""
    wide = {key: torch.cat([tensor, tensor]) for key, tensor in states[0].items()}
    torch.save({"teacher": wide, "student": states[0]}, tmp_path / "w.pt")
    model, notes = quiet_load(tmp_path / "w.pt")
    assert "weights of 'student'" in notes[0]
    assert torch.equal(model(image), logits_of(states[0], image))


@pytest.mark.parametrize("type_", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_read_in_float32(tmp_path, states, type_):
    torch.save({key: tensor.to(type_) for key, tensor in states[0].items()}, tmp_path / "w.pt")
    model, _ = quiet_load(tmp_path / "w.pt")
    assert model.head.weight.dtype == torch.float32
    assert torch.equal(model.head.weight, states[0]["head.weight"].to(type_).float())


class Config:
    """A class of the user's own, as OmegaConf's are."""


@pytest.mark.parametrize("kind", ["entry", "model"])
def test_other_objects_are_named_and_the_conversion_works(tmp_path, states, image, kind):
    file = tmp_path / "it's last.ckpt"
    module = timm.create_model(TINY, num_classes=5)
    module.load_state_dict(states[0])
    content = {
        "entry": {"state_dict": states[0], "hyper_parameters": {"config": Config()}},
        "model": module,
    }[kind]
    torch.save(content, file)
    with pytest.raises(WeightsError) as error:
        load(TINY, checkpoint=file)
    named = {"entry": f"{__name__}.Config", "model": "timm.models.vision_transformer."}[kind]
    assert named in str(error.value) and "\n" not in str(error.value)
    command = str(error.value).partition("convert it: ")[2]
    root = Path(__file__).parents[2]
    words = [sys.executable, *shlex.split(command)[1:]]
    subprocess.run(words, check=True, cwd=root, env={"PYTHONPATH": str(root)})
    model, _ = quiet_load(tmp_path / "it's last-weights.pt")
    assert torch.equal(model(image), logits_of(states[0], image))


def test_the_safe_classes_of_torch_stay_as_they_were(tmp_path, states):
    before = set(torch.serialization.get_safe_globals())
    torch.save({"model": states[0], "args": argparse.Namespace(lr=1)}, tmp_path / "w.pt")
    load(TINY, checkpoint=tmp_path / "w.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    torch.save({"model": states[0], "args": Config()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError):
        load(TINY, checkpoint=tmp_path / "w.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_namespace_in_a_file_is_no_namespace(tmp_path):
    """Nothing that the file says reaches an attribute."""
    from semattn.zoo.checkpoints import read_file

    args = argparse.Namespace(__setstate__="x", lr=3, path=Path("x"))
    torch.save({"args": args, "weight": torch.ones(1)}, tmp_path / "w.pt")
    read = read_file(tmp_path / "w.pt")["args"]
    assert type(read) is not argparse.Namespace and not vars(read)


def test_the_command_says_what_was_assumed_and_refuses_two_sets(run, tmp_path, states):
    file = tmp_path / "last.pth.tar"
    torch.save({"state_dict": prefixed(states[1], "module."), "state_dict_ema": states[0]}, file)
    words = ("explain", PHOTO, "--model", TINY, "--no-report", "--out", tmp_path / "out")
    refused(run(*words, "--checkpoint", file), f"give {file}#state_dict or {file}#state_dict_ema")
    status, out, err = run(*words, "--checkpoint", f"{file}#state_dict_ema")
    assert status == 0, err
    assert "weights of 'state_dict_ema' (EMA; the file also holds 'state_dict')" in out
