"""Positions of features, checked by changes of pixels, as for the keys, and by other layouts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semattn.attention.hooks import attach
from semattn.attention.layer_features import follow_features
from semattn.attention.model_call import ModelCall
from semattn.attention.model_layout import ModelLayout, model_layout
from semattn.errors import UnsupportedModelError
from semattn.explain import GradCAM
from tests.families import FAMILIES, build, shared
from tests.models import images

BLOCKS = [(0, 0), (20, 28), (44, 60), (12, 16)]  # y, x
# Their convolutions and strides spread the effect of a block of pixels.
SPREAD = (
    "maxvit", "pvt-v2", "levit", "twins", "davit", "hiera", "mvit-v2", "vit-pytorch-pit",
    "vit-pytorch-cvt", "vit-pytorch-max_vit", "vit-pytorch-nest", "transformers-hiera",
    "transformers-pvt_v2", "transformers-segformer",
    "vit-pytorch-vit_for_small_dataset",
)  # fmt: skip


def _features(model: nn.Module, x: Tensor, module: nn.Module) -> Tensor:
    """Return the input of a module while attention is replaced by zeros."""
    tensors: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        tensors.append([*args, *named.values()][0].clone())

    sites = _layout(model, x).modules(model)
    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with torch.no_grad(), attach(sites, lambda _, c: torch.zeros_like(c.run())):
            model(x)
    finally:
        handle.remove()
    return tensors[0]


def _layout(model: nn.Module, x: Tensor) -> ModelLayout:
    return model_layout(model, ModelCall.of(x))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_features_that_change_are_those_of_the_changed_patch(family: str) -> None:
    x = images(2, torch.float64)
    with shared(family, torch.float64) as model:
        self_sites = [
            (model.get_submodule(site.path), site)
            for site in _layout(model, x).self_attention_sites
        ]
        # CaiT's and DeepViT's talking heads mix patches although attention is replaced by zeros.
        joins = family in ("cait", "vit-pytorch-deepvit")
        for module, site in {self_sites[0], self_sites[0 if joins else -1]}:
            at = follow_features(model, ModelCall.of(x), site.name, attribute_to_layer_input=True)
            before = at.place(_features(model, x, module), 2)
            assert before.shape[:2] == (2, at.grid.patches)
            for y, left in BLOCKS:
                moved = x.clone()
                moved[1, :, y : y + 4, left : left + 4] += 0.5
                change = (at.place(_features(model, moved, module), 2) - before).abs().sum(dim=-1)
                assert change[0].max() < 1e-9, "another image's features changed"
                here = int(at.grid.patch_of(torch.tensor([[left + 1.5, y + 1.5]]))[0])
                if family in SPREAD:
                    if not change[1].any():  # after a layer whose output is only its attention
                        assert family == "levit" and site != self_sites[0][1]
                        continue
                    peak = at.grid.centers()[change[1].argmax()]
                    away = (peak - at.grid.centers()[here]).abs() / torch.tensor(at.grid.cell)
                    assert away.max() <= 2, site
                else:
                    assert (change[1] > 1e-6).nonzero().flatten().tolist() == [here], site


@pytest.mark.parametrize(
    ("family", "picture"),
    [("swin", "layers.1.blocks.1.norm1"), ("swin", "layers.0.blocks.1.norm1")],
)
def test_shifted_windows_are_the_picture_that_they_were_cut_from(family: str, picture: str) -> None:
    model, x = build(family, torch.float64), images(dtype=torch.float64)
    windows = picture.replace("norm1", "attn")
    sites = _layout(model, images(dtype=torch.float64)).sites
    number = [site.name for site in sites].index(windows)
    actual = GradCAM(layers=[number]).patch_map(model, x, target=[1, 3])
    expected = GradCAM(layer=picture).patch_map(model, x, target=[1, 3])  # (B, h, w, D)
    torch.testing.assert_close(actual, expected)
    captured: dict[str, Tensor] = {}

    def keep(_m: nn.Module, _i: object, output: Tensor) -> None:
        captured["features"] = output
        output.register_hook(lambda gradient: captured.__setitem__("gradient", gradient))

    handle = model.get_submodule(picture).register_forward_hook(keep)
    model(x)[[0, 1], [1, 3]].sum().backward()
    handle.remove()
    weights = captured["gradient"].mean(dim=(1, 2), keepdim=True)
    by_hand = (weights * captured["features"]).sum(dim=-1).relu()
    torch.testing.assert_close(actual, by_hand.detach())
    assert by_hand.max() > 0


def test_features_that_are_not_of_patches_are_refused() -> None:
    for family, name in (("swin", "head.global_pool"), ("swin", "head.fc"), ("hiera", "head")):
        model = build(family)
        with pytest.raises(UnsupportedModelError, match=f"layer {name}: expected features of the"):
            follow_features(model, ModelCall.of(images()), name, attribute_to_layer_input=False)
