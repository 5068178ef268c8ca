"""Tiny vision transformers of transformers' list of image classifiers.

Every model of `MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES` is here, in `tests.families`, or in
`NOT_BUILT` with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tests.models import CLASSES

SIDE = 64  # pixels; these models take squares

# Names of transformers' list that are not built here, and why.
NOT_BUILT = {
    **dict.fromkeys(
        ["bit", "convnext", "convnextv2", "efficientnet", "hgnet_v2", "mobilenet_v1",
         "mobilenet_v2", "pp_lcnet", "regnet", "resnet", "textnet"],
        "convolutional",
    ),
    **dict.fromkeys(["focalnet", "poolformer"], "mixes patches without attention"),
    "dinat": "needs natten, which is compiled",
    "imagegpt": "takes token numbers, not a picture",
    "shieldgemma2": "a language model",
    "siglip2": "takes patches, not a picture",
    "timm_wrapper": "a model of timm",
}  # fmt: skip

# Names of transformers' list that tests.families builds.
BUILT_ELSEWHERE = {
    "beit", "deit", "dinov2", "dinov2_with_registers", "swin", "swinv2", "vit",
}  # fmt: skip

_PLAIN = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": SIDE, "patch_size": 16,
}  # fmt: skip
_TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 50,
}  # fmt: skip
_PYRAMID = {
    "depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2], "image_size": SIDE,
}  # fmt: skip
_LEVIT = {
    "image_size": SIDE, "hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2],
    "depths": [1, 1, 2], "key_dim": [8, 8, 8], "mlp_ratio": [2, 2, 2],
    "attention_ratio": [2, 2, 2],
}  # fmt: skip
_PERCEIVER = {
    "d_latents": 16, "num_latents": 8, "num_blocks": 1, "num_self_attends_per_block": 2,
    "num_self_attention_heads": 2, "num_cross_attention_heads": 1, "image_size": SIDE,
}  # fmt: skip
_TOWERS = {"vision_config": _PLAIN, "text_config": _TEXT}

# Name: the classes' first part and their last part, the options.
_MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "clip": ("CLIP", "", {**_TOWERS, "projection_dim": 16}),
    "cvt": (
        "Cvt",
        "",
        {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    ),
    "data2vec-vision": ("Data2VecVision", "", _PLAIN),
    "deit-with-teacher": ("DeiT", "WithTeacher", _PLAIN),
    "donut-swin": (
        "DonutSwin",
        "",
        {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2],
         "num_heads": [2, 2], "window_size": 4},
    ),
    "hiera": (
        "Hiera",
        "",
        {"image_size": [SIDE, SIDE], "embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 2],
         "num_query_pool": 2, "masked_unit_size": [4, 4],
         "masked_unit_attention": [True, True, False]},
    ),
    "ijepa": ("IJepa", "", _PLAIN),
    "levit": ("Levit", "", _LEVIT),
    "levit-with-teacher": ("Levit", "WithTeacher", _LEVIT),
    "metaclip_2": ("MetaClip2", "", {**_TOWERS, "projection_dim": 16}),
    "mobilevit": (
        "MobileViT",
        "",
        {"image_size": SIDE, "hidden_sizes": [16, 16, 16], "num_attention_heads": 2,
         "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16]},
    ),
    "mobilevitv2": ("MobileViTV2", "", {"image_size": SIDE, "width_multiplier": 0.25}),
    "perceiver-conv": ("Perceiver", "ConvProcessing", _PERCEIVER),
    "perceiver-fourier": ("Perceiver", "Fourier", _PERCEIVER),
    "perceiver-learned": ("Perceiver", "Learned", _PERCEIVER),
    "pvt": ("Pvt", "", {**_PYRAMID, "sequence_reduction_ratios": [4, 2, 1, 1]}),
    "pvt_v2": ("PvtV2", "", {**_PYRAMID, "sr_ratios": [4, 2, 1, 1]}),
    "segformer": ("Segformer", "", {**_PYRAMID, "sr_ratios": [4, 2, 1, 1]}),
    "siglip": ("Siglip", "", _TOWERS),
    "swiftformer": ("SwiftFormer", "", {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16]}),
    "vit_msn": ("ViTMSN", "", _PLAIN),
}  # fmt: skip


def _build(name: str) -> nn.Module:
    import transformers

    first, last, options = _MODELS[name]
    config = getattr(transformers, f"{first}Config")(**options, num_labels=CLASSES)
    return getattr(transformers, f"{first}ForImageClassification{last}")(config)


TRANSFORMERS: dict[str, Callable[[], nn.Module]] = {name: partial(_build, name) for name in _MODELS}
