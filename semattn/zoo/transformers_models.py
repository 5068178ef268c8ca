"""Models of transformers from a folder, the cache or the hub: classifiers, encoders, CLIP, SigLIP.

The class is the one that `save_pretrained` stored in config.json. Code in a repository is not run,
and weights are read as tensors only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SemattnError, UnsupportedModelError
from ..images import Preprocessing
from ..images.processors import check_channels
from .hub_cache import cached_folder, errors_only, first_line, hide_progress_bars
from .specifications import (
    LoadedModel,
    ModelRequest,
    check_no_checkpoint,
    check_no_labels,
    missing_package,
    sources,
)
from .weights import WeightsError
from .zero_shot import ZeroShotClassifier, check_labels, check_logits

DUAL_ENCODERS = ("CLIPModel", "MetaClip2Model", "SiglipModel")
_LOGGERS = ("transformers", "transformers.modeling_utils", "huggingface_hub")


class ImageTower(nn.Module):
    """Image encoder of a dual encoder of transformers: its vision model and its projection."""

    def __init__(self, dual_encoder: Any) -> None:
        super().__init__()
        self.vision_model = dual_encoder.vision_model
        self.visual_projection = getattr(dual_encoder, "visual_projection", nn.Identity())

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the image embeddings (B, D)."""
        pooled = self.vision_model(pixel_values=pixel_values).pooler_output
        embeds: Tensor = self.visual_projection(pooled)
        return embeds


@sources.register("hf")
def load_transformers(request: ModelRequest) -> LoadedModel:
    """Load a model of transformers with its image processor."""
    try:
        import transformers
    except ImportError as error:
        raise missing_package("transformers", request) from error
    check_no_checkpoint(request)
    folder = _folder(request)
    with errors_only(*_LOGGERS), hide_progress_bars():
        config = _read(request, transformers.AutoConfig, folder)
        model_class = _model_class(request, config)
        if model_class.__name__ in DUAL_ENCODERS:
            check_labels(request)
        else:
            check_no_labels(request)
        model = _model(request, model_class, config, folder)
        with _one_line_errors(request, folder, "an image processor"):
            preprocessing = Preprocessing.of_saved(folder)
        check_channels(config, len(preprocessing.mean), request.specification)
        if not request.labels:
            return LoadedModel(model, preprocessing)
        tokenizer = _read(request, transformers.AutoTokenizer, folder)
    classifier = _zero_shot(model, tokenizer, preprocessing, request.labels)
    return LoadedModel(classifier, preprocessing, request.labels)


def _folder(request: ModelRequest) -> str:
    """Return a local folder for the address, or the address as the name of a repository."""
    if (Path(request.address) / "config.json").is_file():
        return request.address
    if Path(request.address).is_dir():
        raise ValueError(
            f"model: expected a folder with the config.json of transformers, got "
            f"{request.address!r} — save the model and its image processor with save_pretrained"
        )
    return str(cached_folder(request.address) or request.address)


def _read(request: ModelRequest, reader: Any, folder: str, **options: Any) -> Any:
    """Call `from_pretrained`, with errors of one line."""
    parts = {"AutoConfig": "config.json", "AutoTokenizer": "a tokenizer"}
    with _one_line_errors(request, folder, parts.get(reader.__name__, "weights")):
        return reader.from_pretrained(
            folder, local_files_only=Path(folder).is_dir(), trust_remote_code=False, **options
        )


@contextmanager
def _one_line_errors(request: ModelRequest, folder: str, part: str) -> Iterator[None]:
    """Convert errors of transformers and its hub client for a part of a model to one line."""
    try:
        yield
    except SemattnError:
        raise
    except Exception as error:  # of the library or its hub client
        advice = (
            "save the model, its image processor and its tokenizer with save_pretrained"
            if Path(folder).is_dir()
            else f"run hf download {folder} with a network, or give a local folder"
        )
        raise WeightsError(
            f"model: expected {part} for {request.specification!r}, got {first_line(error)!r} — "
            f"{advice}"
        ) from error


def _model_class(request: ModelRequest, config: Any) -> Any:
    """Return the class of the model in its config, if it is one that takes images."""
    import transformers

    names = getattr(config, "architectures", None) or [""]
    name = str(names[0])
    model_class = getattr(transformers, name, None) if name else None
    is_supported = name in DUAL_ENCODERS or (
        getattr(model_class, "main_input_name", "") == "pixel_values"
        and ("ForImageClassification" in name or name.endswith(("Model", "ModelWithProjection")))
    )
    if model_class is None or not is_supported:
        raise UnsupportedModelError(
            f"model: expected an image classifier, an image encoder, CLIP or SigLIP of "
            f"transformers, got {name or type(config).__name__} in {request.specification!r} — "
            "save a model of such a class, or give FILE.py:function"
        )
    return model_class


def _model(request: ModelRequest, model_class: Any, config: Any, folder: str) -> Any:
    """Return the model in float32, after checking that the weights are complete."""
    if not request.pretrained:
        return model_class(config)
    model, loading = _read(
        request, model_class, folder, config=config, dtype=torch.float32, weights_only=True,
        output_loading_info=True,
    )  # fmt: skip
    missing = sorted(
        str(entry[0] if isinstance(entry, tuple) else entry)
        for kind in ("missing_keys", "mismatched_keys") for entry in loading.get(kind) or ()
    )  # fmt: skip
    if missing:
        raise WeightsError(
            f"model: expected all weights of {model_class.__name__} in {request.specification!r}, "
            f"got a file without {len(missing)} of them, such as {missing[0]!r} — save the model "
            "after training, with save_pretrained"
        )
    return model


def _zero_shot(
    model: Any, tokenizer: Any, preprocessing: Preprocessing, labels: tuple[str, ...]
) -> ZeroShotClassifier:
    """Return the classifier of the labels, with the logits of the dual encoder."""
    bias = getattr(model, "logit_bias", None)
    # SigLIP was trained on texts that are padded to the full length.
    padding = True if bias is None else "max_length"
    texts = tokenizer(list(labels), padding=padding, truncation=True, return_tensors="pt")
    size = (len(preprocessing.mean), *preprocessing.size)
    model.eval()

    def reference(pixel_values: Tensor) -> Tensor:
        logits: Tensor = model(pixel_values=pixel_values, **texts).logits_per_image
        return logits

    with torch.no_grad():
        example = model(pixel_values=torch.zeros(1, *size, device="cpu"), **texts)
        classifier = ZeroShotClassifier(
            ImageTower(model), example.text_embeds, float(model.logit_scale.exp()),
            None if bias is None else float(bias),
        )  # fmt: skip
    check_logits(classifier, reference, size, type(model).__name__)
    return classifier
