"""The first layer: its input is all patches, and the only path from the image to the output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semattn.attention.first_layer import first_layer
from semattn.attention.layer_features import activation
from semattn.attention.model_call import ModelCall
from semattn.attention.model_layout import model_layout
from semattn.errors import UnsupportedModelError
from tests import families
from tests.models import MODELS, build, images

NAMES = {
    "swin": "layers", "maxvit": "stages.0.blocks.0.attn_block", "levit": "stages",
    "transformers-swin-eager": "swin.encoder",
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_first_layer_of_a_plain_model_is_its_stack_of_blocks(name: str) -> None:
    name_of_layer = first_layer(build(name), ModelCall.of(images()))
    assert name_of_layer in ("blocks", "blocks.0")


@pytest.mark.parametrize("family", NAMES)
def test_the_grid_of_the_first_layer_is_that_of_the_model(family: str) -> None:
    model, x = families.build(family), images()
    name = first_layer(model, ModelCall.of(x))
    features = activation(model, x, name, attribute_to_layer_input=True, target=1)
    assert features.grid.shape == model_layout(model, ModelCall.of(x)).grid.shape
    assert name == NAMES[family]


class _TwoPaths(nn.Module):
    """A model with a second path from the image to the output."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("class-token")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + x.mean((1, 2, 3))[:, None]


def test_a_second_path_is_refused() -> None:
    message = "inner.blocks: expected a layer that the whole image passes through"
    with pytest.raises(UnsupportedModelError, match=message):
        first_layer(_TwoPaths(), ModelCall.of(images()))


def test_the_name_is_cached_until_the_model_changes() -> None:
    model, call = build("class-token"), ModelCall.of(images())
    first_layer(model, call)
    passes: list[int] = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    handle.remove()
    assert first_layer(model, call) == "blocks" and passes == []


def test_products_count_the_tokens_that_are_not_patches() -> None:
    model, x = build("registers"), images()
    features = activation(model, x, "blocks", attribute_to_layer_input=True, target=1)
    tensor = torch.Tensor()

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        nonlocal tensor
        tensor = args[0].detach().requires_grad_()
        return (tensor,)

    handle = model.blocks.register_forward_pre_hook(keep)
    score = model(x)[:, 1].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, tensor)
    products = (tensor * gradient).detach().sum(dim=2)
    torch.testing.assert_close(features.products, products.sum(dim=1))
    patches = (features.features * features.gradient).sum(dim=2)
    torch.testing.assert_close(patches, products[:, 5:])
