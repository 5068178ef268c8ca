"""Tiny models of vit-pytorch, one of each module that classifies pictures.

Not built here: `crossformer` and `local_vit` fail in their own forward pass at small sizes, and
`sep_vit` takes multiples of 224 pixels alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from torch import nn

from tests.models import CLASSES

SIDE = 64  # pixels; these models take squares

_USUAL = {
    "image_size": SIDE, "patch_size": 16, "num_classes": CLASSES, "dim": 16, "depth": 4,
    "heads": 2, "mlp_dim": 32, "dim_head": 8,
}  # fmt: skip

# Module of vit_pytorch: class, and options besides the usual ones.
_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViT", {}),
    "simple_vit": ("SimpleViT", {}),
    "simple_vit_with_register_tokens": ("SimpleViT", {}),
    "simple_flash_attn_vit": ("SimpleViT", {"use_flash": True}),
    "vit_for_small_dataset": ("ViT", {}),
    "deepvit": ("DeepViT", {}),
    "parallel_vit": ("ViT", {}),
    "rvt": ("RvT", {}),
    "learnable_memory_vit": ("ViT", {}),
    "normalized_vit": ("nViT", {}),
    "jumbo_vit": ("JumboViT", {}),
    "vit_5": ("ViT", {}),
    "vit_detpool": ("ViTDetPool", {}),
    "vit_with_keel_post_ln": ("ViT", {}),
    "vit_with_patch_dropout": ("ViT", {}),
    "vit_with_decorr": ("ViT", {}),
    "simple_vit_with_patch_dropout": ("SimpleViT", {}),
    "simple_vit_with_relative_proj_pos_bias": ("SimpleViT", {}),
    "simple_vit_with_value_residual": ("SimpleViT", {}),
    "simple_vit_with_sparse_gating": ("SimpleViTWithSparseGating", {}),
    "simple_vit_with_hyper_connections": ("SimpleViT", {"num_residual_streams": 2}),
    "simple_vit_orthog_residual_update": ("SimpleViT", {}),
    "simple_uvit": ("SimpleUViT", {}),
    "vit_nd": ("ViTND", {"ndim": 2, "input_shape": (SIDE, SIDE)}),
    "vit_nd_rotary": ("ViTND", {"ndim": 2, "input_shape": (SIDE, SIDE)}),
    "cct": (
        "CCT",
        {"img_size": SIDE, "embedding_dim": 16, "num_layers": 2, "num_heads": 2,
         "n_conv_layers": 2},
    ),
    "nest": ("NesT", {"patch_size": 4, "num_hierarchies": 2, "block_repeats": (1, 1)}),
    "pit": ("PiT", {"depth": (2, 2)}),
    "levit": (
        "LeViT",
        {"dim": (16, 32), "depth": 2, "mlp_mult": 2, "stages": 2, "dim_key": 8, "dim_value": 16,
         "heads": (2, 2)},
    ),
    "cvt": (
        "CvT",
        {"s1_emb_dim": 8, "s1_depth": 1, "s2_emb_dim": 16, "s2_depth": 1, "s2_heads": 2,
         "s3_emb_dim": 16, "s3_depth": 1, "s3_heads": 2},
    ),
    "max_vit": ("MaxViT", {"dim": 8, "depth": (1, 1), "dim_conv_stem": 8, "window_size": 4}),
    "max_vit_with_registers": (
        "MaxViT", {"dim": 8, "depth": (1, 1), "dim_conv_stem": 8, "window_size": 4},
    ),
    "scalable_vit": (
        "ScalableViT",
        {"dim": 8, "depth": (1, 1), "heads": (1, 2), "reduction_factor": (4, 2),
         "window_size": (4, None)},
    ),
    "cait": ("CaiT", {"cls_depth": 2}),
    "xcit": ("XCiT", {"cls_depth": 2}),
    "t2t": ("T2TViT", {}),
    "twins_svt": (
        "TwinsSVT",
        {"s1_emb_dim": 8, "s1_local_patch_size": 4, "s1_global_k": 4, "s2_emb_dim": 16,
         "s2_local_patch_size": 4, "s2_global_k": 4, "s3_emb_dim": 16, "s3_local_patch_size": 4,
         "s3_global_k": 4, "s3_depth": 1, "s4_emb_dim": 16, "s4_local_patch_size": 2,
         "s4_global_k": 2, "s4_depth": 1},
    ),
    "regionvit": ("RegionViT", {"dim": (8, 16, 16, 16), "depth": (1, 1, 1, 1), "window_size": 2}),
    "mobile_vit": (
        "MobileViT",
        {"image_size": (SIDE, SIDE), "dims": [16, 16, 16], "depths": (1, 1, 1),
         "channels": [8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 16]},
    ),
    "cross_vit": (
        "CrossViT",
        {"sm_dim": 16, "lg_dim": 16, "sm_patch_size": 16, "lg_patch_size": 32, "sm_enc_heads": 2,
         "sm_enc_mlp_dim": 32, "sm_enc_dim_head": 8, "lg_enc_depth": 2, "lg_enc_heads": 2,
         "lg_enc_mlp_dim": 32, "lg_enc_dim_head": 8, "cross_attn_depth": 2, "cross_attn_heads": 2,
         "cross_attn_dim_head": 8, "depth": 2},
    ),
    "ats_vit": ("ViT", {"max_tokens_per_depth": (16, 12, 8, 6)}),
    "look_vit": ("LookViT", {"highres_patch_size": 8}),
    "na_vit": ("NaViT", {}),
    "jet_vit": ("JetViT", {"window_size": 2}),
    "looped_vit": (
        "LoopedViT",
        {"pre_loop_depth": 1, "num_looped_blocks": 1, "post_loop_depth": 1, "loop_depth": 2},
    ),
    "simple_vit_attn_residual": ("SimpleViTAttnResidual", {}),
    "attn_residual_with_dca_simple_vit": ("SimpleViT", {}),
    "simple_vit_with_fft": ("SimpleViT", {"freq_patch_size": 16}),
    "simple_vit_with_specialized_cls": ("SimpleViT", {}),
    "vit_with_patch_merger": ("ViT", {"patch_merge_layer": 2}),
    "wwt": ("WWT", {"num_slots": 4}),
}  # fmt: skip


def _build(module: str) -> nn.Module:
    name, options = _MODELS[module]
    kind = getattr(import_module(f"vit_pytorch.{module}"), name)
    if module == "mobile_vit":  # its `patch_size` is that of an inner unfolding
        return kind(num_classes=CLASSES, **options)
    parameters = inspect.signature(kind.__init__).parameters
    usual = {key: value for key, value in _USUAL.items() if key in parameters}
    if module == "cct":  # takes its number of classes among the others
        usual["num_classes"] = CLASSES
    return kind(**(usual | options))


VIT_PYTORCH: dict[str, Callable[[], nn.Module]] = {name: partial(_build, name) for name in _MODELS}
