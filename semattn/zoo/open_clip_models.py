"""Zero-shot classifiers of OpenCLIP: ``open-clip:ViT-B-32:TAG`` or ``open-clip:FOLDER``.

A folder has open_clip_config.json and weights. TAG may also be a file with weights.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..images import Preprocessing
from ..utils.registry import unknown_name_message
from .hub_cache import errors_only, first_line
from .specifications import (
    LoadedModel,
    ModelRequest,
    check_no_checkpoint,
    missing_package,
    sources,
)
from .weights import WeightsError
from .zero_shot import ZeroShotClassifier, check_labels, check_logits


@sources.register("open-clip")
def load_open_clip(request: ModelRequest) -> LoadedModel:
    """Load a model of OpenCLIP as a zero-shot classifier of the labels."""
    try:
        import open_clip
    except ImportError as error:
        raise missing_package("open_clip_torch", request) from error
    check_no_checkpoint(request)
    check_labels(request)
    name, tag = _name_and_tag(request)
    try:
        with errors_only("root", "huggingface_hub"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = open_clip.create_model(
                name, pretrained=tag, load_weights=request.pretrained, weights_only=True,
                require_pretrained=request.pretrained and not name.startswith("local-dir:"),
            )  # fmt: skip
            tokens = open_clip.get_tokenizer(name)(list(request.labels))
    except Exception as error:  # of the library or its hub client
        raise WeightsError(
            f"model: expected the weights and the tokenizer of {request.specification!r}, got "
            f"{first_line(error)!r} — run the same command once with a network, or give a folder "
            "with open_clip_config.json, or random weights"
        ) from error
    preprocessing = Preprocessing.of(model.visual)
    classifier = _zero_shot(model.eval(), tokens, preprocessing)
    return LoadedModel(classifier, preprocessing, request.labels)


def _name_and_tag(request: ModelRequest) -> tuple[str, str | None]:
    """Return the name of OpenCLIP and the tag of the weights; None for a folder."""
    import open_clip

    if (Path(request.address) / "open_clip_config.json").is_file():
        return f"local-dir:{request.address}", None
    name, _, tag = request.address.partition(":")
    names = open_clip.list_models()
    if name not in names:
        raise ValueError(unknown_name_message("model", name, names))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag and tag not in tags and not Path(tag).is_file():
        raise ValueError(unknown_name_message("model weights", tag, tags))
    if not tag and request.pretrained and len(tags) != 1:
        raise ValueError(
            f"model: expected the tag of weights for {request.specification!r}, got none — give "
            f"open-clip:{name}:TAG with a tag of {', '.join(tags) or 'no public weights: a file'}"
        )
    return name, (tag or (tags[0] if tags else None)) if request.pretrained else None


def _zero_shot(model: Any, tokens: Tensor, preprocessing: Preprocessing) -> ZeroShotClassifier:
    """Return the classifier of the texts, with the logits of the dual encoder."""
    bias = getattr(model, "logit_bias", None)
    scale = float(model.logit_scale.detach().exp())
    with torch.no_grad():
        text_embeds = model.encode_text(tokens)
    classifier = ZeroShotClassifier(
        model.visual, text_embeds, scale, None if bias is None else float(bias.detach())
    )

    def reference(pixel_values: Tensor) -> Tensor:
        images, texts = (
            model.encode_image(pixel_values, normalize=True),
            model.encode_text(tokens, normalize=True),
        )
        logits: Tensor = scale * images @ texts.mT + (0.0 if bias is None else bias)
        return logits

    size = (len(preprocessing.mean), *preprocessing.size)
    check_logits(classifier, reference, size, type(model).__name__)
    return classifier
