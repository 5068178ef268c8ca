"""Models whose patches are mixed by channels: their only attention between tokens is in pools."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from semattn.errors import UnsupportedModelError
from semattn.explain import explainers

LAYER_METHODS = {"legrad", "grad-cam", "transition-attention"}
SLOW = {"integrated-gradients", "smooth-grad", "occlusion"}


@pytest.fixture(scope="module")
def xcit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("xcit_nano_12_p16_224", num_classes=5).eval()


@pytest.mark.parametrize("name", sorted(set(explainers) - SLOW))
def test_a_method_explains_a_model_without_layers_or_refuses_it_by_name(
    xcit: nn.Module, name: str
) -> None:
    x = torch.rand(1, 3, 224, 224, generator=torch.manual_seed(0))
    if name not in LAYER_METHODS:
        assert explainers[name]().patch_map(xcit, x, target=1).isfinite().all()
        return
    expected = rf"Xcit: expected a self-attention layer .* for {name}, got only cls_attn_blocks\.0"
    with pytest.raises(UnsupportedModelError, match=expected):
        explainers[name]().attribute(xcit, x, target=1)
