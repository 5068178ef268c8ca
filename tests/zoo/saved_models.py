"""Tiny models with random weights, saved as their libraries save them: one per source.

Each function writes a model into a folder and returns its specification. `CASES` has them by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models._api import Weights, WeightsEnum, register_model
from torchvision.transforms._presets import ImageClassification

SIDE = 64
CLASSES = ("cat", "dog", "owl, owls")
LABELS = ("a cat", "a dog", "an owl")
_PLAIN = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": SIDE, "patch_size": 16,
}  # fmt: skip
_TEXT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 64, "max_position_embeddings": 16,
}  # fmt: skip
_SWIN = {
    "image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
    "window_size": 4,
}  # fmt: skip
# transformers: first part of the class names, arguments of the config, processor
_CLASSIFIERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vit": ("ViT", _PLAIN, "ViTImageProcessor"),
    "deit": ("DeiT", _PLAIN, "DeiTImageProcessor"),
    "dinov2": ("Dinov2", _PLAIN, "BitImageProcessor"),
    "beit": ("Beit", _PLAIN, "BeitImageProcessor"),
    "swin": ("Swin", _SWIN, "ViTImageProcessor"),
}
_SIZES = {
    "DeiTImageProcessor": {"size": {"height": 72, "width": 72}},
    "BitImageProcessor": {"size": {"shortest_edge": 72}},
    "BeitImageProcessor": {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False},
    "CLIPImageProcessor": {"size": {"shortest_edge": SIDE}},
}
_CROP = {"height": SIDE, "width": SIDE}


def _save_processor(folder: Path, name: str) -> None:
    import transformers

    options: dict[str, Any] = _SIZES.get(name, {"size": _CROP})
    getattr(transformers, name)(crop_size=_CROP, **options).save_pretrained(folder)


def transformers_classifier(folder: Path, name: str, suffix: str = "ForImageClassification") -> str:
    """Save a classifier of transformers; another suffix saves another class of the family."""
    import transformers

    first, options, processor = _CLASSIFIERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{first}Config")(
        **options, id2label=dict(enumerate(CLASSES)), label2id={}
    )
    getattr(transformers, first + suffix)(config).save_pretrained(folder)
    _save_processor(folder, processor)
    return f"hf:{folder}"


def save_tokenizer(folder: Path, length: int) -> None:
    """Save a tokenizer of words, with begin, end and padding tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<bos>", "<eos>", "<unk>", "a", "an", "cat", "dog", "owl", "photo", "of"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>",
        unk_token="<unk>", model_max_length=length,
    ).save_pretrained(folder)  # fmt: skip


def dual_encoder(folder: Path, first: str) -> str:
    """Save a CLIP or SigLIP of transformers with its processor and a tokenizer."""
    import transformers

    torch.manual_seed(0)
    text = {**_TEXT, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    options = {"vision_config": _PLAIN, "text_config": text}
    if first == "CLIP":
        options["projection_dim"] = 16
        options["text_config"] = {**text, "eos_token_id": 3, "bos_token_id": 1}
        options["text_config"]["eos_token_id"] = 2
    config = getattr(transformers, f"{first}Config")(**options)
    model = getattr(transformers, f"{first}Model")(config)
    if first == "Siglip":
        nn.init.constant_(model.logit_bias, -1.5)  # 0 after construction
    model.save_pretrained(folder)
    _save_processor(folder, f"{first}ImageProcessor")
    save_tokenizer(folder, 16)
    return f"hf:{folder}"


def torchvision_model(folder: Path, name: str) -> str:
    """Register a tiny model with torchvision; its weights are in the cache of torch.hub."""
    weights = _tiny_torchvision()[name]
    torch.hub.set_dir(str(folder))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = models.get_model(name, weights=None)
    nn.init.normal_(list(model.parameters())[-2])  # the classifier is 0 after construction
    torch.save(model.state_dict(), folder / "checkpoints" / Path(weights.V1.url).name)
    return f"torchvision:{name}"


@cache
def _tiny_torchvision() -> dict[str, Any]:
    """Return the weights of the tiny models by name, after registering their builders."""
    meta = {"categories": list(CLASSES)}
    transforms = partial(ImageClassification, crop_size=SIDE, resize_size=72)

    class TinyViTWeights(WeightsEnum):
        V1 = Weights("https://example.invalid/tiny_vit-00000000.pth", transforms, meta)
        DEFAULT = V1

    class TinySwinWeights(WeightsEnum):
        V1 = Weights("https://example.invalid/tiny_swin-00000000.pth", transforms, meta)
        DEFAULT = V1

    def tiny_vit(*, weights: Any = None, progress: bool = True) -> nn.Module:
        return models.VisionTransformer(
            image_size=SIDE, patch_size=16, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32,
            num_classes=len(CLASSES),
        )  # fmt: skip

    def tiny_swin(*, weights: Any = None, progress: bool = True) -> nn.Module:
        return models.SwinTransformer(
            patch_size=[4, 4], embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=[4, 4],
            num_classes=len(CLASSES),
        )  # fmt: skip

    tiny: dict[str, Any] = {"tiny_vit": TinyViTWeights, "tiny_swin": TinySwinWeights}
    for builder, weights in zip((tiny_vit, tiny_swin), tiny.values(), strict=True):
        builder.__annotations__["weights"] = weights
        builder.__module__ = "torchvision.models.tiny"  # as torchvision's own
        register_model(builder.__name__)(builder)
    return tiny


def open_clip_folder(folder: Path) -> str:
    """Save a model of OpenCLIP with its config."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    from safetensors.torch import save_file

    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": SIDE, "layers": 3, "width": 64, "patch_size": 16},
        "text_cfg": {
            "context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2,
        },
    }  # fmt: skip
    mean_and_std = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": mean_and_std}), encoding="utf-8"
    )
    torch.manual_seed(0)
    state = open_clip.CLIP(**model_cfg).state_dict()
    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()},
        folder / "open_clip_model.safetensors",
    )
    return f"open-clip:{folder}"


def timm_folder(folder: Path) -> str:
    """Save a model of timm as for the hub."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=SIDE, num_classes=len(CLASSES))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": "test_vit", "num_classes": len(CLASSES), "label_names": list(CLASSES),
        "model_args": {"img_size": SIDE},
        "pretrained_cfg": {
            "input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3,
            "interpolation": "bicubic", "crop_pct": 1.0, "num_classes": len(CLASSES),
            "first_conv": "patch_embed.proj", "classifier": "head",
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return f"local-dir:{folder}"


CODE = '''
"""A model of the user."""

import timm
import torch

from semattn import Preprocessing


def build(pretrained=True):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64, num_classes=3)
    model.classes = ("cat", "dog", "owl, owls")
    return model, Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)


def bare():
    return torch.nn.Linear(2, 2)


def number():
    return 3


def broken():
    raise KeyError("weights")
'''


def python_file(folder: Path) -> str:
    """Write a Python file with a function that returns a model and its preprocessing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.py").write_text(CODE, encoding="utf-8")
    return f"{folder / 'own.py'}:build"


def hub_folder(folder: Path) -> str:
    """Write a folder of torch.hub with an entry that returns a timm model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hubconf.py").write_text(
        CODE.replace(", Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3)", ""), encoding="utf-8"
    )
    return f"torch-hub-dir:{folder}:build"


CASES: dict[str, Callable[[Path], str]] = {
    **{
        f"transformers-{name}": partial(transformers_classifier, name=name) for name in _CLASSIFIERS
    },
    "transformers-dinov2-features": partial(transformers_classifier, name="dinov2", suffix="Model"),
    "transformers-clip": partial(dual_encoder, first="CLIP"),
    "transformers-siglip": partial(dual_encoder, first="Siglip"),
    "torchvision-vit": partial(torchvision_model, name="tiny_vit"),
    "torchvision-swin": partial(torchvision_model, name="tiny_swin"),
    "open-clip": open_clip_folder,
    "timm-folder": timm_folder,
    "python-file": python_file,
    "torch-hub-folder": hub_folder,
}
ZERO_SHOT = {"transformers-clip", "transformers-siglip", "open-clip"}
