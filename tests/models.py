"""Tiny models, awkward on purpose: a 3x4 grid of 16-pixel patches, two heads, four layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIZE = (48, 64)
GRID = (3, 4)
CLASSES = 5
_PLAIN = {
    "img_size": SIZE,
    "patch_size": 16,
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
    "num_classes": CLASSES,
}


def _vit(**options: object) -> nn.Module:
    return VisionTransformer(**_PLAIN | options)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "class-token": lambda: _vit(),
    "registers": lambda: _vit(reg_tokens=4),
    "gap": lambda: _vit(class_token=False, global_pool="avg"),
    "attention-pool": lambda: _vit(class_token=False, global_pool="map"),
    "registers-gap": lambda: _vit(class_token=False, reg_tokens=2, global_pool="avg"),
    "qk-norm": lambda: _vit(qk_norm=True, init_values=0.5),
    "unfused": lambda: _unfused(_vit()),
    "rope": lambda: Eva(**_PLAIN, use_rot_pos_emb=True, use_abs_pos_emb=False),
    "rope-registers": lambda: Eva(**_PLAIN, use_rot_pos_emb=True, num_reg_tokens=2),
    "relative-bias": lambda: Beit(**_PLAIN, use_rel_pos_bias=True, use_abs_pos_emb=False),
    "shared-relative-bias": lambda: Beit(**_PLAIN, use_shared_rel_pos_bias=True),
}


def build(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A model by name, every parameter drawn at random so that attention is far from uniform."""
    torch.manual_seed(seed)
    return randomised(MODELS[name]().to(dtype).eval())


def randomised(model: nn.Module) -> nn.Module:
    """The model, with random numbers added to every parameter."""
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


def images(batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Smooth random images in [0, 1], (B, 3, 48, 64), with corners for SIFT to find."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 12, 16, generator=generator, dtype=torch.float64)
    return nn.functional.interpolate(coarse, size=SIZE, mode="bicubic").clamp(0, 1).to(dtype)


def _unfused(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    return model


class UniformAttention(VisionTransformer):
    """q = k = 0, so that every row of attention is exactly 1/N."""

    def __init__(self, **options: object) -> None:
        super().__init__(**_PLAIN | options)
        with torch.no_grad():
            for block in self.blocks:
                rows = 2 * block.attn.num_heads * block.attn.head_dim
                block.attn.qkv.weight[:rows] = 0
                if block.attn.qkv.bias is not None:
                    block.attn.qkv.bias[:rows] = 0


def state_of(model: nn.Module) -> list[object]:
    """Return the state of a model that an explainer could change."""
    return [
        (
            name,
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            getattr(module, "fused_attn", None),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    ] + [
        (name, parameter.requires_grad, parameter.grad is None)
        for name, parameter in model.named_parameters()
    ]


def devices() -> list[str]:
    """Return the devices of the tests: the CPU, and an accelerator if there is one."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
