"""Models whose token order changes from image to image or from pass to pass.

Such a model is read correctly, or refused with a message that names the changing order. A map in
the order of another pass or another image is never returned.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter, explainers, record
from semattn.errors import SemattnError, UnsupportedModelError
from tests.maps import METHODS, QUICK, TARGET, assert_same, attempt, patch_map
from tests.models import CLASSES
from tests.twins import GRID, PATCHES, Twin, TwinViT, build, pictures


class _Ordered(TwinViT):
    """ViT with a class token and a varying order of patches."""

    def __init__(self, kind: str) -> None:
        super().__init__(Twin())
        self.kind = kind
        self.passes = 0
        self.score = nn.Linear(self.norm.normalized_shape[0], 1)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2) + self.positions
        class_token = self.tokens["class"].expand(len(images), -1, -1)
        return self.read(
            self.norm(self.blocks(torch.cat([class_token, self.arrange(patches)], dim=1)))
        )

    def arrange(self, patches: Tensor) -> Tensor:
        batch, count, width = patches.shape
        self.passes += 1
        if self.kind in ("sorted", "top 8", "top 12"):
            scores = self.score(patches).squeeze(-1)
            if self.kind == "sorted":
                index = scores.argsort(dim=1)
            else:
                index = scores.topk(int(self.kind[4:]), dim=1).indices
        elif self.kind == "by image":  # fixed for an index of the batch, different within it
            index = torch.stack([torch.arange(count).roll(5 * number) for number in range(batch)])
        elif self.kind == "by pass":
            return patches.roll(self.passes, dims=1)
        elif self.kind == "shuffled":
            return patches[:, torch.randperm(count)]
        elif self.kind == "shuffled by image":
            index = torch.rand(batch, count).argsort(dim=1)
        else:  # random patches are dropped, although the model is in evaluation mode
            index = torch.rand(batch, count).topk(count - 4, dim=1).indices
        return patches.gather(1, index[:, :, None].expand(-1, -1, width))


KINDS = [
    "sorted", "top 8", "top 12", "by image", "by pass", "shuffled", "shuffled by image", "dropped",
]  # fmt: skip
# All patches are used, so the logits and the correct map are those of the plain twin.
COMPLETE = [kind for kind in KINDS if kind not in ("top 8", "dropped")]


def _model(kind: str) -> nn.Module:
    model = _Ordered(kind).double().eval()
    model.load_state_dict(build(Twin()).state_dict(), strict=False)
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(1, 16, generator=torch.manual_seed(7)))
    return model


@cache
def _plain(name: str) -> Tensor:
    return patch_map(name, build(Twin()), pictures())


def _check_refusal(error: SemattnError) -> None:
    assert isinstance(error, UnsupportedModelError) and "order" in str(error), error


@pytest.mark.parametrize("kind", COMPLETE)
def test_the_order_does_not_change_the_logits(kind: str) -> None:
    x = pictures()
    torch.testing.assert_close(_model(kind)(x), build(Twin())(x), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", COMPLETE)
@pytest.mark.parametrize("name", METHODS)
def test_the_map_is_right_or_the_order_is_named(kind: str, name: str) -> None:
    model, explainer = _model(kind), explainers[name](**QUICK.get(name, {}))
    for _ in range(2):  # results cached in the first call may be wrong in the second
        value, refusal = attempt(lambda: explainer.patch_map(model, pictures(), target=TARGET))
        if value is None:
            _check_refusal(refusal)
        else:
            assert_same(value, _plain(name))


@pytest.mark.parametrize("kind", ["sorted", "top 12"])
def test_an_order_learned_from_one_batch_is_not_used_for_another(kind: str) -> None:
    model, x = _model(kind), pictures(count=6)
    explainer, plain = explainers["raw-attention"](), build(Twin())
    for batch in (x[:1], x[1:2], x[2:4], x[4:], x[[5, 0]]):
        try:
            value = explainer.patch_map(model, batch, target=TARGET)
        except SemattnError as error:
            _check_refusal(error)
        else:
            expected = explainer.patch_map(plain, batch, target=TARGET)
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", COMPLETE)
@pytest.mark.parametrize("queries", ["all", "class", "patches"])
def test_the_prompt_is_right_or_the_order_is_named(kind: str, queries: str) -> None:
    options = {"density": "count", "strength": 1.0, "layers": "all", "queries": queries}
    x = pictures(count=4)
    prompter = AttentionPrompter(_model(kind), **options)
    with torch.no_grad():
        for batch in (x[:2], x[2:], x[[3, 0]]):
            try:
                value = prompter(batch)
            except SemattnError as error:
                _check_refusal(error)
            else:
                expected = AttentionPrompter(build(Twin()), **options)(batch)
                torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", ["top 8", "dropped"])
@pytest.mark.parametrize("name", METHODS)
def test_dropped_patches_get_no_heat_or_the_order_is_named(kind: str, name: str) -> None:
    model, x = _model(kind), pictures()
    explainer = explainers[name](**QUICK.get(name, {}))
    try:
        value = explainer.patch_map(model, x, target=TARGET)
    except SemattnError as error:
        _check_refusal(error)
        return
    if kind == "dropped" or name in ("occlusion", "smooth-grad"):
        return  # other patches are dropped in each pass, so the pixels are read truthfully
    patches = model.patch_embed(x).flatten(2).transpose(1, 2) + model.positions
    used = torch.zeros(len(x), PATCHES, dtype=torch.bool)
    used.scatter_(1, model.score(patches).squeeze(-1).topk(8, dim=1).indices, True)
    assert not value.flatten(1)[~used].any()


class _MAE(nn.Module):
    """Encoder of a masked autoencoder, without masking, and a head on its class token."""

    def __init__(self) -> None:
        from transformers import ViTMAEConfig, ViTMAEModel

        super().__init__()
        torch.manual_seed(0)
        config = ViTMAEConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
            image_size=64, patch_size=16, mask_ratio=0.0,
        )  # fmt: skip
        self.encoder = ViTMAEModel(config)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        states = self.encoder(images, noise=noise).last_hidden_state
        return self.head(states[:, 0])


def _square() -> Tensor:
    noise = torch.rand(2, 3, 16, 16, generator=torch.manual_seed(1), dtype=torch.float64)
    return nn.functional.interpolate(noise, size=64, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_masked_autoencoder_shuffles_even_where_it_masks_nothing(name: str) -> None:
    model, x = _MAE().double().eval(), _square()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    explainer = explainers[name](**QUICK.get(name, {}))
    in_order = torch.arange(16.0, dtype=torch.float64).expand(2, -1)  # noise that sorts to itself
    try:
        expected = explainer.patch_map(model, x, target=TARGET, additional_forward_args=(in_order,))
    except SemattnError as error:
        _check_refusal(error)
        expected = None
    for _ in range(2):
        try:
            value = explainer.patch_map(model, x, target=TARGET)
        except SemattnError as error:
            _check_refusal(error)
        else:
            assert expected is not None, "read where the order varies, refused where it does not"
            difference = float((value - expected).abs().max() / expected.abs().max())
            assert difference <= 1e-5, f"differs by {difference:.1e}"


def test_a_model_that_only_draws_numbers_is_not_refused() -> None:
    """A model whose random numbers do not change the order of tokens is not refused."""

    class _Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = build(Twin())

        def forward(self, images: Tensor) -> Tensor:
            torch.rand(3)
            return self.vit(images)

    recorded = record(_Draws().eval(), pictures(), target=TARGET)
    assert recorded.grid.shape == GRID
    torch.testing.assert_close(
        explainers["raw-attention"]().patch_map(_Draws().eval(), pictures(), target=TARGET),
        _plain("raw-attention"),
    )
