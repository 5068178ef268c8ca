"""The trained part of the embedded model: what is trained is what is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import semattn
from benchmarks.training.measure_head import interval
from benchmarks.training.model_card import card
from benchmarks.training.train_head import NAMES, RESULT, LowRank, Recipe, Tail, augment
from semattn.zoo.build import merge

DATA = Path(semattn.__file__).parent / "zoo" / "assets"


def test_tail_is_the_model_with_its_changes_merged():
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=len(NAMES), global_pool="token").eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, 3, 160, 160)
    entering = []
    first = len(model.blocks) - 2
    model.blocks[first].register_forward_pre_hook(lambda module, args: entering.append(args[0]))
    with torch.no_grad():
        model(images)
        tail = Tail(model, Recipe(blocks=2, rank=3))
        for parameter in tail.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter).half() / 4)
        logits = tail(entering[0])
        merged = timm.create_model("test_vit", num_classes=len(NAMES), global_pool="token").eval()
        merged.load_state_dict(merge(state, tail.changes()), strict=True)
        torch.testing.assert_close(merged(images), logits, rtol=1e-3, atol=1e-3)


def test_only_the_changes_are_trained():
    tail = Tail(timm.create_model("test_vit", global_pool="token"), Recipe(blocks=1, rank=2))
    trained = {name for name, item in tail.named_parameters() if item.requires_grad}
    assert len(trained) == len(tail.changes())
    assert not any(".linear." in name for name in trained)


def test_low_rank_starts_as_the_layer():
    linear, x = torch.nn.Linear(5, 4), torch.randn(2, 5)
    assert torch.equal(LowRank(linear, 2)(x), linear(x))


def test_augment_keeps_size_and_follows_the_seed():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), bool)
    changed = [augment(image, mask, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert changed[0].shape == image.shape
    np.testing.assert_array_equal(changed[0], changed[1])
    assert (changed[0] != changed[2]).any()


def test_interval_counts_objects_not_images():
    low, high = interval([[True] * 50, [False] * 50])
    assert (low, high) == (0, 1)
    assert interval([[True] * 3] * 4) == [1, 1]


def test_card_is_that_of_the_committed_result():
    result = json.loads(RESULT.read_text())
    assert (DATA / "MODEL_CARD.md").read_text() == card(result)
    assert (DATA / f"{result['model']}.safetensors").stat().st_size == result["bytes"]
    assert result["test"]["accuracy"] == pytest.approx(
        np.mean(list(result["test"]["classes"].values())), abs=0.01
    )
