"""Tests that `torch.set_default_device` does not change results.

Tensors on the meta device have no values, so that a tensor created there by mistake raises.
"""

from __future__ import annotations

import pytest
import torch

from semattn import Preprocessing, SIFTPatchInterrelation
from semattn.images import pixels_of

from .accelerator import DEVICE, accelerator
from .device_cases import CASES, assert_same, cue_numbers, numbers, on_cpu, search, searched
from .models import SIZE, build
from .report.pages import corners


@pytest.fixture
def default_device():
    yield torch.set_default_device
    torch.set_default_device(None)


@pytest.mark.parametrize("name", CASES)
def test_another_default_device_changes_nothing(name, default_device):
    expected, model, inputs = on_cpu(name), build("class-token"), corners(2)
    default_device("meta")
    assert_same(CASES[name](model, inputs), expected)


@pytest.mark.parametrize(
    "name", ["explain integrated-gradients", "explain occlusion", "prompt interrelation", "analyze"]
)
def test_the_default_device_is_the_accelerator(name, default_device):
    expected, model, inputs = on_cpu(name), build("class-token").to(DEVICE), corners(2).to(DEVICE)
    default_device(DEVICE)
    with accelerator():
        assert_same(CASES[name](model, inputs), expected)


def test_pictures_are_read_under_another_default_device(default_device):
    model, pixels = build("class-token"), list(pixels_of(corners(2)))
    method = SIFTPatchInterrelation(
        model,
        density="distinct-size-surround",
        preprocessing=Preprocessing(SIZE, (0.5,) * 3, (0.5,) * 3),
    )
    expected = method.attribute(pixels)
    default_device("meta")
    assert_same(method.attribute(pixels), numbers(expected))


def test_the_search_for_spurious_cues(default_device):
    cue, model = searched()
    default_device("meta")
    assert_same(cue_numbers(search(model).cues[0]), numbers(cue_numbers(cue)))


def test_processors_of_other_libraries_are_read(default_device):
    """A processor of another library is compared on a test picture, which is on the CPU."""
    from torchvision.models import ViT_B_16_Weights

    weights = ViT_B_16_Weights.DEFAULT.transforms()
    expected = Preprocessing.of(weights)
    default_device("meta")
    assert Preprocessing.of(weights) == expected
