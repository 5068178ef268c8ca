"""LeGrad against one backward pass per layer, and on hierarchical models."""

from __future__ import annotations

import threading

import pytest
import timm
import torch

from semattn import LeGrad
from semattn.attention import record
from semattn.errors import UnsupportedModelError
from tests import families
from tests.models import _vit, build, images
from tests.oracles import legrad

TARGET = [1, 3]
PREFIX = {"class-token": 1, "registers": 5, "gap": 0, "registers-gap": 2, "qk-norm": 1}


@pytest.mark.parametrize("layers", [None, [0, 2]])
@pytest.mark.parametrize("name", PREFIX)
def test_equals_the_oracle(name: str, layers: list[int] | None) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    expected = legrad(model, x, TARGET, layers or [0, 1, 2, 3])[:, PREFIX[name] :]
    actual = LeGrad(layers=layers).patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual, expected, atol=1e-14, rtol=1e-9)


def test_logits_and_target_are_those_of_the_model() -> None:
    model, x = build("class-token"), images()
    explanation = LeGrad().explain(model, x)
    attention_record = record(model, x)
    assert torch.equal(explanation.logits, attention_record.logits)
    assert torch.equal(explanation.target, attention_record.prediction.target)


def test_layers_of_another_size_are_left_out_with_a_note() -> None:
    model, x = families.build("swin", torch.float64), images(dtype=torch.float64)
    explanation = LeGrad().explain(model, x, target=TARGET)
    (note,) = explanation.notes
    assert note.endswith("size: layers.0.blocks.0.attn to layers.0.blocks.1.attn, 2 layers.")
    later = LeGrad(layers=[2, 3]).explain(model, x, target=TARGET)
    assert later.notes == ()
    coarse = later.patch_map / later.grid.patches
    pooled = explanation.patch_map.unflatten(1, (6, 2)).unflatten(3, (8, 2)).mean((2, 4))
    torch.testing.assert_close(pooled / pooled.sum(), coarse / coarse.sum())
    with pytest.raises(ValueError, match=r"layers: expected a layer of the size of layers\.1"):
        LeGrad(layers=[0]).attribute(model, x, target=TARGET)


def test_a_single_block_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.attn .* a single one"):
        LeGrad().attribute(_vit(depth=1), images(), target=1)


def test_another_thread_sees_the_model_as_it_is() -> None:
    model, x = build("class-token"), images()
    expected, differences = model(x).detach(), []
    done = threading.Event()

    def use() -> None:
        while not done.is_set():
            if not torch.equal(model(x).detach(), expected):
                differences.append(True)

    thread = threading.Thread(target=use)
    thread.start()
    for _ in range(20):
        LeGrad().attribute(model, x, target=1)
    done.set()
    thread.join()
    assert not differences


def test_gradient_checkpointing_changes_nothing() -> None:
    model = timm.create_model("test_vit", img_size=64).eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    expected = LeGrad().attribute(model, x, target=1)
    model.set_grad_checkpointing()
    torch.testing.assert_close(LeGrad().attribute(model, x, target=1), expected)
