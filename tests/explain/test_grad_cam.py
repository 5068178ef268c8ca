"""Grad-CAM against loops over patches and channels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semattn import GradCAM
from semattn.errors import UnsupportedModelError
from tests import families
from tests.models import build, images, state_of
from tests.oracles import grad_cam

TARGET = [1, 3]
PREFIX = {"class-token": 1, "registers": 5, "gap": 0, "rope-registers": 3}


@pytest.mark.parametrize("name", PREFIX)
def test_equals_the_oracle(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    for layer, module in ((None, "blocks.3.norm1"), ("blocks.1", "blocks.1")):
        expected = grad_cam(model, module, x, TARGET, PREFIX[name])
        actual = GradCAM(layer=layer).patch_map(model, x, target=TARGET).flatten(1)
        torch.testing.assert_close(actual, expected, atol=1e-14, rtol=1e-9)
        assert actual.max() > 0


def test_a_layer_is_a_module_a_name_or_the_number_of_an_attention() -> None:
    model, x = build("class-token"), images()
    expected = GradCAM(layer="blocks.1.norm1").attribute(model, x, target=1)
    by_module = GradCAM(layer=model.blocks[1].norm1)
    assert torch.equal(by_module.attribute(model, x, target=1), expected)
    assert torch.equal(GradCAM(layers=1).attribute(model, x, target=1), expected)
    assert by_module.parameters()["layer"] == "a given LayerNorm"
    with pytest.raises(ValueError, match=r"layer: expected a module .* got 'blocks\.9'"):
        GradCAM(layer="blocks.9").attribute(model, x, target=1)
    with pytest.raises(ValueError, match="layers: expected one layer for grad-cam, got 4"):
        GradCAM(layers="all").attribute(model, x, target=1)


def test_features_that_come_as_a_picture_or_in_a_tuple() -> None:
    model, x = build("gap", torch.float64), images(dtype=torch.float64)
    expected = grad_cam(model, "patch_embed", x, TARGET, 0)
    actual = GradCAM(layer="patch_embed.proj").patch_map(model, x, target=TARGET)
    torch.testing.assert_close(actual.flatten(1), expected)  # (B, D, h, w)

    class Paired(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor, **kwargs: object) -> tuple[torch.Tensor, str]:
            return self.inner(x, **kwargs), "more"

    model.patch_embed = nn.Sequential(paired := Paired(model.patch_embed), _First())
    actual = GradCAM(layer=paired).patch_map(model, x, target=TARGET)
    torch.testing.assert_close(actual.flatten(1), expected)


class _First(nn.Module):
    def forward(self, pair: tuple[torch.Tensor, str]) -> torch.Tensor:
        return pair[0]


def test_after_the_last_attention_the_map_is_zero() -> None:
    explanation = GradCAM(layer="norm").explain(build("class-token"), images(), target=1)
    assert explanation.heat_map.abs().sum() == 0 and "is zero" in explanation.notes[-1]


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("head", r"layer head: expected features of the image's patches"),
        ("norm", r"layer norm: expected one call .* got a second one"),
        ("blocks.0.ls1.none", r"layer: expected a module"),
    ],
)
def test_layers_without_patches_are_refused_by_name(layer: str, message: str) -> None:
    model = build("class-token")
    if layer == "norm":
        model.fc_norm = model.norm
    before = state_of(model)
    with pytest.raises((UnsupportedModelError, ValueError), match=message):
        GradCAM(layer=layer).attribute(model, images(), target=1)
    assert state_of(model) == before


def test_a_layer_that_the_output_does_not_use_is_refused() -> None:
    model = build("class-token")
    unused = nn.Identity()
    model.blocks[0].aside = unused
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.aside: expected one call .* none"):
        GradCAM(layer=unused).attribute(model, images(), target=1)

    def use(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        unused(output)

    model.blocks[0].register_forward_hook(use)
    with pytest.raises(UnsupportedModelError, match=r"blocks\.0\.aside: expected the output to"):
        GradCAM(layer=unused).attribute(model, images(), target=1)


def test_other_families_keep_their_features_in_order() -> None:
    model, x = families.build("torchvision-vit", torch.float64), images(dtype=torch.float64)
    actual = GradCAM().patch_map(model, x, target=TARGET)
    by_name = GradCAM(layer="inner.encoder.layers.encoder_layer_3.ln_1")
    assert torch.equal(by_name.patch_map(model, x, target=TARGET), actual) and actual.max() > 0
