"""The simulated accelerator refuses what real ones refuse, and everything passes on it."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semattn import AttentionPrompter, Preprocessing, SIFTPatchInterrelation
from semattn.images import pixels_of

from . import families
from .accelerator import DEVICE, accelerator
from .device_cases import (
    CASES,
    PAIRS,
    assert_same,
    cue_numbers,
    numbers,
    on_cpu,
    search,
    searched,
)
from .models import SIZE, build, state_of
from .report.pages import corners
from .spurious import planted


@pytest.fixture(autouse=True)
def device():
    with accelerator() as tensor:
        yield tensor


def randn(*shape: int, **options: object) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, **options)


# --- the simulation ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE),
        lambda: torch.zeros(2, dtype=torch.float64).to(DEVICE),
        lambda: torch.tensor([1.0], dtype=torch.float64, device=DEVICE),
        lambda: torch.from_numpy(np.ones(2)).to(DEVICE),
        lambda: randn(2).double(),
        lambda: randn(2).to(torch.float64),
        lambda: randn(2).to("cpu", torch.float64),  # MPS casts before it copies
        lambda: torch.zeros(2, dtype=torch.float64).copy_(randn(2)),
        lambda: randn(2).new_zeros(2, dtype=torch.float64),
        lambda: randn(2).sum(dtype=torch.float64),
        lambda: nn.Linear(2, 2).double().to(DEVICE),
    ],
)
def test_float64_is_refused(make):
    with pytest.raises(TypeError, match="float64"):
        make()


@pytest.mark.parametrize(
    "mix",
    [
        lambda x: x + torch.ones(2, 3),
        lambda x: torch.ones(2, 3) * x,
        lambda x: x @ torch.ones(3, 2),
        lambda x: torch.cat([x, torch.zeros(2, 3)]),
        lambda x: torch.stack([x[0, 0], torch.tensor(1.0)]),
        lambda x: torch.where(torch.ones(2, 3) > 0, x, x),
        lambda x: x.masked_fill(torch.ones(2, 3) > 0, 0.0),
        lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)),
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: torch.rand(4, 3)[x[0].long()],
        lambda x: x.__setitem__(slice(None), torch.arange(3)[None] + x),
        lambda x: x.__setitem__(torch.tensor([0, 1]), torch.ones(2, 3)),
        lambda x: torch.ones(2, 3).add_(x),
        lambda x: F.linear(x, torch.ones(4, 3)),
        lambda x: F.layer_norm(x, (3,), torch.ones(3)),
        lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(2, 2)),
        lambda x: nn.Linear(3, 3)(x),
        lambda x: nn.Linear(3, 3).to(DEVICE)(x.cpu()),
    ],
)
def test_two_devices_are_refused(mix):
    with pytest.raises(RuntimeError, match="same device"):
        mix(randn(2, 3))


@pytest.mark.parametrize(
    "read", [lambda x: x.numpy(), np.asarray, lambda x: np.ones(2) * x, lambda x: np.stack([x, x])]
)
def test_numpy_is_refused(read):
    with pytest.raises(TypeError, match="numpy"):
        read(randn(2))


def test_what_accelerators_allow():
    x = randn(2, 3)
    assert x.device == DEVICE and x.device.type != "cpu"
    assert torch.zeros(2).device.type == "cpu"
    assert torch.zeros(2, dtype=torch.float64).to(DEVICE, torch.float32).device == DEVICE
    assert x.cpu().double().dtype == torch.float64
    assert (x + torch.tensor(1.0)).device == DEVICE, "a single number"
    assert x[torch.tensor([1])].shape == x[torch.tensor([False, True])].shape == (1, 3)
    assert torch.arange(3, device=DEVICE).shape == torch.eye(3, device=DEVICE)[0].shape == (3,)
    assert x.tolist() == x.cpu().tolist() and x.sum().item() == x.cpu().sum().item()
    x[0], x[:, 1] = torch.ones(3), 5.0
    assert x.cpu()[0].tolist() == [1, 5, 1]
    base = randn(6)
    base.view(2, 3)[0].zero_()
    assert base.cpu()[:3].tolist() == [0, 0, 0], "a view"
    with torch.autocast(DEVICE.type, enabled=False), torch.inference_mode():
        assert (base[1:] * 2).is_inference()


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_those_of_the_cpu(fused):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            x = self.norm(self.conv(x).flatten(2).transpose(1, 2))
            x = x + self.attn(x, x, x, need_weights=not fused)[0]
            scores = (x @ x.mT / 3).softmax(-1)
            return F.scaled_dot_product_attention(x, x, scores @ x).mean(1)

    torch.manual_seed(0)
    model, x = Attends(), torch.randn(2, 3, 8, 8)
    other = copy.deepcopy(model).to(DEVICE)
    for model_on_device, inputs in ((model, x), (other, x.to(DEVICE))):
        model_on_device(inputs).pow(2).sum().backward()
    for actual, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert actual.grad.device == DEVICE
        torch.testing.assert_close(actual.grad.cpu(), expected.grad, rtol=1e-4, atol=1e-5)


# --- the library on it ------------------------------------------------------------------------


@cache
def device_model():
    return build("class-token").to(DEVICE)


@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_the_cpu(name):
    before = state_of(device_model())
    assert_same(CASES[name](device_model(), corners(2).to(DEVICE)), on_cpu(name))
    assert state_of(device_model()) == before


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("swin", "explain sift-patch-interrelation"), ("swin", "prompt count"),
        ("swin", "explain grad-cam"), ("swin", "analyze"), ("hiera", "explain grad-cam"),
        ("hiera", "prompt count"), ("torchvision-vit", "explain legrad"),
        ("torchvision-vit", "prompt interrelation"),
    ],
)  # fmt: skip
def test_models_with_windows_and_other_grids(family, name):
    """Their positions are traced; the layout is on the device too."""
    expected = numbers(CASES[name](families.build(family), corners(2)))
    actual = CASES[name](families.build(family).to(DEVICE), corners(2).to(DEVICE))
    assert_same(actual, expected)


def test_pictures_are_prepared_for_the_device():
    pixels = pixels_of(corners(2))
    options = {"preprocessing": Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3)}
    expected, actual = (
        SIFTPatchInterrelation(**options).explain(model, list(pixels))
        for model in (build("class-token"), build("class-token").to(DEVICE))
    )
    assert actual.heat_map.device == DEVICE
    assert actual.concentration.device.type == "cpu"
    assert_same(actual.heat_map, numbers(expected.heat_map))


def test_the_search_for_spurious_cues():
    cue, model = searched()
    assert cue.confirmed
    moved_model = copy.deepcopy(model).to(DEVICE)
    actual = search(moved_model).cues[0]
    assert_same(cue_numbers(actual), numbers(cue_numbers(cue)))
    inputs = planted.inputs_of(PAIRS[:3])
    bias = actual.bias(inputs.to(DEVICE))
    assert bias.device == DEVICE
    assert_same(bias, numbers(cue.bias(inputs)))
    with AttentionPrompter(moved_model).steer(actual), AttentionPrompter(model).steer(cue):
        assert_same(moved_model(inputs.to(DEVICE)), numbers(model(inputs)))


@pytest.mark.parametrize(("first", "then"), [("cpu", DEVICE), (DEVICE, "cpu")])
def test_a_prompter_goes_where_its_model_goes(first, then):
    """The layout of windows is remembered; it is looked up again on another device."""
    model, inputs = families.build("swin"), corners(2)
    expected = numbers(AttentionPrompter(model, density="count")(inputs))
    prompter = AttentionPrompter(model.to(first), density="count")
    for place in (first, then):
        model.to(place)
        assert_same(prompter(inputs.to(place)), expected)
