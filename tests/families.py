"""Tiny models of other families: windows, strided grids, mask units, pooled keys, other libraries.

All take the same images as the plain ones of `models`; those that take squares alone see rows of
padding below them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest
import torch
from packaging.version import parse
from torch import Tensor, nn

from tests import models
from tests.families_transformers import TRANSFORMERS
from tests.families_vit_pytorch import VIT_PYTORCH
from tests.models import CLASSES, SIZE


def _swin(**options: object) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=SIZE, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2),
        num_classes=CLASSES, **options,
    )  # fmt: skip


def _swin_v2() -> nn.Module:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    if parse(version("timm")) < parse("1.0.22"):
        pytest.skip("timm < 1.0.22: Swin v2 needs windows that fill the grid")
    return SwinTransformerV2(
        img_size=SIZE, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(2, 2),
        num_classes=CLASSES,
    )  # fmt: skip


def _maxvit() -> nn.Module:
    from timm.models.maxxvit import (
        MaxxVit,
        MaxxVitCfg,
        MaxxVitConvCfg,
        MaxxVitTransformerCfg,
    )

    return MaxxVit(
        MaxxVitCfg(
            embed_dim=(8, 16), depths=(1, 1), block_type=("M", "M"), stem_width=8,
            conv_cfg=MaxxVitConvCfg(), transformer_cfg=MaxxVitTransformerCfg(
                dim_head=4, window_size=(3, 4), grid_size=(3, 4)
            ),
        ),
        img_size=SIZE,
        num_classes=CLASSES,
    )  # fmt: skip


def _pvt() -> nn.Module:
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    return PyramidVisionTransformerV2(
        num_classes=CLASSES, depths=(1, 1, 1, 1), embed_dims=(8, 8, 16, 16),
        num_heads=(1, 2, 2, 2), sr_ratios=(4, 2, 1, 1), mlp_ratios=(2, 2, 2, 2),
    )  # fmt: skip


def _hiera() -> nn.Module:
    from timm.models.hiera import Hiera

    return Hiera(
        img_size=SIZE, num_classes=CLASSES, embed_dim=8, num_heads=1, stages=(2, 2, 2),
        q_pool=2, mask_unit_size=(4, 4), mask_unit_attn=(True, True, False),
    )  # fmt: skip


def _levit() -> nn.Module:
    from timm.models.levit import Levit

    return Levit(
        img_size=SIZE, num_classes=CLASSES, embed_dim=(16, 32), key_dim=8, depth=(2, 2),
        num_heads=(2, 2), attn_ratio=2, mlp_ratio=2,
    )  # fmt: skip


def _mvit() -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    return _Square(
        MultiScaleVit(
            MultiScaleVitCfg(depths=(1, 2), embed_dim=8, num_heads=2, use_cls_token=True),
            img_size=64,
            num_classes=CLASSES,
        )
    )


def _davit() -> nn.Module:
    from timm.models.davit import DaVit

    return DaVit(
        depths=(1, 1), embed_dims=(8, 16), num_heads=(2, 2), window_size=4, num_classes=CLASSES
    )


def _cait() -> nn.Module:
    from timm.models.cait import Cait

    return Cait(
        img_size=SIZE, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=CLASSES
    )


def _twins() -> nn.Module:
    from timm.models.twins import Twins

    return Twins(
        img_size=SIZE, patch_size=4, num_classes=CLASSES, embed_dims=(8, 16), num_heads=(2, 2),
        mlp_ratios=(2, 2), depths=(2, 2), sr_ratios=(4, 2), wss=(4, 2),
    )  # fmt: skip


def _torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return _Square(
        VisionTransformer(
            image_size=64, patch_size=16, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=CLASSES,
        )
    )  # fmt: skip


def _torchvision_swin(version: int) -> nn.Module:
    from torchvision.models import swin_transformer as swin

    block = swin.SwinTransformerBlockV2 if version == 2 else swin.SwinTransformerBlock
    merging = swin.PatchMergingV2 if version == 2 else swin.PatchMerging
    return swin.SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
        num_classes=CLASSES, block=block, downsample_layer=merging,
    )  # fmt: skip


def _transformers(name: str, attention: str, **options: object) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=64, patch_size=16, num_labels=CLASSES, **options,
    )  # fmt: skip
    config._attn_implementation = attention
    return _Square(getattr(transformers, f"{name}ForImageClassification")(config))


def _transformers_swin(name: str, attention: str) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        image_size=SIZE, patch_size=4, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4,
        num_labels=CLASSES,
    )  # fmt: skip
    config._attn_implementation = attention
    model_class = getattr(transformers, f"{name}ForImageClassification")
    if attention == "sdpa" and not model_class._supports_sdpa:
        pytest.skip(f"transformers {transformers.__version__}: {name} attends by eager code alone")
    return model_class(config)


def _tower(name: str, attention: str, **options: object) -> nn.Module:
    """An image tower without classes, and a linear head on its pooled output."""
    import transformers

    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
        image_size=64, patch_size=16, **options,
    )  # fmt: skip
    config._attn_implementation = attention
    return _Square(_Headed(getattr(transformers, f"{name}Model")(config)))


def _open_clip() -> nn.Module:
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(
        image_size=SIZE, patch_size=16, width=16, layers=4, heads=2, mlp_ratio=2,
        output_dim=CLASSES,
    )  # fmt: skip


class _Headed(nn.Module):
    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.head = nn.Linear(16, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.tower(inputs).pooler_output)


class _Square(nn.Module):
    """The image with 16 more rows below, for models that take squares alone."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Any:
        height, width = SIZE
        return self.inner(nn.functional.pad(inputs, (0, 0, 0, width - height)))


def _square_family(build: Callable[[], nn.Module]) -> nn.Module:
    return _Square(build())


# Of the other two lists, those that tests/test_families.py does not let be refused and that differ
# in how they attend; the contract takes a second for each explainer.
_OF_VIT_PYTORCH = (
    "vit", "simple_vit_with_register_tokens", "vit_for_small_dataset", "deepvit", "parallel_vit",
    "nest", "pit", "cvt", "max_vit",
)  # fmt: skip
_OF_TRANSFORMERS = (
    "data2vec-vision", "deit-with-teacher", "ijepa", "clip", "siglip", "donut-swin", "hiera",
    "pvt_v2", "segformer",
)  # fmt: skip


def _monai_vit() -> nn.Module:
    from monai.networks.nets import ViT

    return ViT(
        3, SIZE, 16, hidden_size=16, mlp_dim=32, num_layers=4, num_heads=2, spatial_dims=2,
        classification=True, num_classes=CLASSES, post_activation="",
    )  # fmt: skip


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "swin": _swin,
    "swin-v2": _swin_v2,
    "maxvit": _maxvit,
    "pvt-v2": _pvt,
    "hiera": _hiera,
    "levit": _levit,
    "mvit-v2": _mvit,
    "davit": _davit,
    "cait": _cait,
    "twins": _twins,
    "torchvision-vit": _torchvision_vit,
    "torchvision-swin": partial(_torchvision_swin, 1),
    "torchvision-swin-v2": partial(_torchvision_swin, 2),
    "transformers-vit-sdpa": partial(_transformers, "ViT", "sdpa"),
    "transformers-vit-eager": partial(_transformers, "ViT", "eager"),
    "transformers-deit": partial(_transformers, "DeiT", "sdpa"),
    "transformers-dinov2": partial(_transformers, "Dinov2", "sdpa"),
    "transformers-dinov2-registers": partial(_transformers, "Dinov2WithRegisters", "eager"),
    "transformers-beit": partial(_transformers, "Beit", "sdpa", use_relative_position_bias=True),
    "transformers-dinov3": partial(_tower, "DINOv3ViT", "sdpa"),
    "transformers-clip": partial(_tower, "CLIPVision", "sdpa"),
    "transformers-siglip": partial(_tower, "SiglipVision", "eager"),
    "transformers-swin-sdpa": partial(_transformers_swin, "Swin", "sdpa"),
    "transformers-swin-eager": partial(_transformers_swin, "Swin", "eager"),
    "transformers-swin-v2": partial(_transformers_swin, "Swinv2", "eager"),
    "open-clip": _open_clip,
    "monai-vit": _monai_vit,
    **{
        f"vit-pytorch-{name}": partial(_square_family, VIT_PYTORCH[name])
        for name in _OF_VIT_PYTORCH
    },
    **{
        f"transformers-{name}": partial(_square_family, TRANSFORMERS[name])
        for name in _OF_TRANSFORMERS
    },
}


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model of this list or of `models`, every parameter drawn at random."""
    if name in models.MODELS:
        return models.build(name, dtype, seed)
    torch.manual_seed(seed)
    return models.randomised(FAMILIES[name]().to(dtype).eval())


_shared: dict[tuple[str, torch.dtype], nn.Module] = {}


@contextmanager
def shared(name: str, dtype: torch.dtype = torch.float32) -> Iterator[nn.Module]:
    """A model of this list or of `models`, one object for all tests until one changes it.

    Its token layout is then found once for all calls of one kind.
    """
    if (name, dtype) not in _shared:
        _shared[name, dtype] = build(name).to(dtype)
    model = _shared[name, dtype]
    before = models.state_of(model)
    try:
        yield model
    finally:
        if models.state_of(model) != before:
            del _shared[name, dtype]
