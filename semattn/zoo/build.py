"""Models of timm by name, with weights from a hub, a folder, the package, or a checkpoint file.

`pretrained_cfg` describes the preprocessing, and `classes` are the class names, if they are known.
"""

from __future__ import annotations

import difflib
import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load as read_safetensors
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from ..errors import plain
from ..utils.registry import Registry
from .checkpoints import check_weights, find_weights, read_states, split_choice
from .hub_cache import cached_folder, errors_only, first_line
from .specifications import (
    DEFAULT,
    FORMS,
    LoadedModel,
    ModelRequest,
    check_no_checkpoint,
    check_no_labels,
    sources,
)
from .weights import WeightsError, backbone

AVERAGED = "fc_norm.weight"  # in a state dict of timm: patches are averaged before the classifier
embedded_models: Registry[Any] = Registry("model")
"""Models that need no hub, by name: functions (pretrained) -> model."""


@sources.register("timm")
def load_timm(request: ModelRequest) -> LoadedModel:
    """Load an embedded model (no address is the default model), or a model of timm by name."""
    check_no_labels(request)
    name, checkpoint = request.address or DEFAULT, request.checkpoint
    if not request.address and checkpoint is not None:
        raise ValueError(
            f"model: expected the architecture of {checkpoint}, got none — give a name, such as "
            "vit_small_patch14_dinov2"
        )
    if name in embedded_models and checkpoint is None:
        return LoadedModel(embedded_models[name](request.pretrained))
    if timm.is_model(name.partition(".")[0]):
        return LoadedModel(_from_timm(name, checkpoint, request.pretrained))
    if name in embedded_models:
        raise ValueError(
            f"checkpoint: expected none for {name!r}, which has its own weights, got "
            f"{str(checkpoint)!r} — give the name of its architecture"
        )
    near = difflib.get_close_matches(name, [*embedded_models, *timm.list_models()], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"model: unknown name {name!r} — {hint}choose {', '.join(embedded_models)} or one of "
        f"timm's {len(timm.list_models())} (python -c 'import timm; print(timm.list_models())'), "
        f"or give {FORMS.partition(', ')[2]}"
    )


@sources.register("hf-hub")
def load_timm_from_hub(request: ModelRequest) -> LoadedModel:
    """Load a model of timm from the Hugging Face hub, or from its cache."""
    folder = cached_folder(request.address)
    if folder is None:
        return _timm_of(request, f"hf-hub:{request.address}")
    return _timm_of(request, f"local-dir:{folder}")


@sources.register("local-dir")
def load_timm_from_folder(request: ModelRequest) -> LoadedModel:
    """Load a model of timm from a folder with a config.json and weights."""
    if not (Path(request.address) / "config.json").is_file():
        raise ValueError(
            f"model: expected a folder with the config.json of timm, got {request.address!r} — "
            "write it with timm.models.save_for_hf(model, FOLDER)"
        )
    return _timm_of(request, f"local-dir:{request.address}")


def _timm_of(request: ModelRequest, source: str) -> LoadedModel:
    """Load a model that timm finds by a source such as ``local-dir:FOLDER``."""
    check_no_labels(request)
    check_no_checkpoint(request)
    model = _from_timm(source, None, request.pretrained)
    config = model.pretrained_cfg
    names: Any = config.get("label_names")  # type: ignore[union-attr, operator]
    texts: Any = config.get("label_descriptions")  # type: ignore[union-attr, operator]
    if isinstance(texts, dict) and names:
        names = [texts.get(name, name) for name in names]
    if not names or len(names) != model.num_classes or not request.pretrained:
        return LoadedModel(model)
    return LoadedModel(model, classes=tuple(map(str, names)))


@embedded_models.register(DEFAULT)
def _default_model(pretrained: bool) -> nn.Module:
    """Build the embedded DINOv2 ViT-S/14 with the packaged classifier for everyday classes."""
    classes = tuple(json.loads(_data("classes.json")))
    # The meta device skips the random initialisation, since all weights are replaced.
    with torch.device("meta" if pretrained else "cpu"):
        model = timm.create_model(
            "vit_small_patch14_dinov2",
            pretrained=False,
            img_size=518,
            num_classes=len(classes),
            pretrained_cfg_overlay={
                "url": "",
                "hf_hub_id": None,
                "tag": DEFAULT,
                "input_size": (3, 224, 224),
            },
        )
    if pretrained:
        state = merge(backbone(), read_safetensors(_data(f"{DEFAULT}.safetensors")))
        model.load_state_dict(state, strict=True, assign=True)
    model.set_input_size((224, 224))
    model.classes = classes
    return model


def _data(name: str) -> bytes:
    return (resources.files("semattn.zoo") / "assets" / name).read_bytes()


def merge(state: dict[str, Tensor], changes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Apply trained changes to a state dict, and return the result.

    Low-rank changes `W.down` (rank, in) and `W.up` (out, rank) are added to W as up @ down. Other
    changes replace the tensor with the same name.

    Examples
    --------
    >>> ones = torch.ones(2, 2)
    >>> merge({"w": ones}, {"w.up": ones[:, :1], "w.down": 2 * ones[:1]})["w"].tolist()
    [[3.0, 3.0], [3.0, 3.0]]
    """
    merged = dict(state)
    for name, change in changes.items():
        if name.endswith(".down"):
            weight = name.removesuffix(".down")
            merged[weight] = state[weight] + changes[f"{weight}.up"].float() @ change.float()
        elif not name.endswith(".up"):
            merged[name] = change.float()
    return merged


def _from_timm(name: str, checkpoint: str | Path | None, pretrained: bool) -> nn.Module:
    if checkpoint is not None:
        return _with_checkpoint(name, checkpoint)
    try:
        with errors_only("huggingface_hub"):  # suppresses a warning for each retry
            return _with_class_names(timm.create_model(name, pretrained=pretrained), pretrained)
    except Exception as error:  # hub clients raise various errors
        reason = first_line(error)
        if not pretrained:
            raise ValueError(f"model: expected timm to build {name!r}, got {reason!r}") from error
        repository = hub_repository(name)
        download = f"run hf download {repository} with a network, " if repository else ""
        raise WeightsError(
            f"model: expected pretrained weights for {name!r} from timm's hub, got {reason!r} — "
            f"{download}give a checkpoint file, or use random weights with pretrained=False"
        ) from error


def hub_repository(name: str) -> str:
    """Return the repository on the Hugging Face hub with the weights of a model; "" without one.

    Examples
    --------
    >>> hub_repository("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    'timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k'
    """
    if name.startswith("hf-hub:"):
        return name.removeprefix("hf-hub:")
    config = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    return str(getattr(config, "hf_hub_id", None) or "")


def _with_class_names(model: nn.Module, pretrained: bool) -> nn.Module:
    """Set `classes` of a model, if its weights are known to be for an ImageNet class list."""
    subset = infer_imagenet_subset(model) if pretrained else None
    if subset:
        model.classes = tuple(ImageNetInfo(subset).label_descriptions())  # type: ignore[assignment]
    return model


def synsets(outputs: int) -> tuple[str, ...]:
    """Return the WordNet ids of the ImageNet class list with so many classes; () without one."""
    subset = infer_imagenet_subset({"num_classes": outputs})
    return tuple(ImageNetInfo(subset).label_names()) if subset else ()


def _with_checkpoint(name: str, checkpoint: str | Path) -> nn.Module:
    """Build a timm model with the weights of a checkpoint file, see `load`."""
    path, label = split_choice(checkpoint)
    states = read_states(path)
    options: dict[str, Any] = {}
    model = timm.create_model(name, pretrained=False)
    is_averaged = any(key.endswith(AVERAGED) for _, state in states for key in state)
    if is_averaged and isinstance(getattr(model, "fc_norm", None), nn.Identity):
        options["global_pool"] = "avg"  # fine-tuned MAE models use the mean of the patches
        model = timm.create_model(name, pretrained=False, **options)
    classifiers = _classifier_names(model)
    weights = find_weights(states, path, label, name, _weight_shapes(model), classifiers)
    head = weights.tensors.get(f"{classifiers[0]}.weight") if classifiers else None
    classes = head.shape[0] if head is not None and head.ndim else 0
    if classes != model.num_classes:
        model = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    check_weights(
        weights, path, name, _weight_shapes(model), getattr(model, "num_prefix_tokens", 0)
    )
    model.load_state_dict(weights.tensors, strict=True)
    note = weights.note(has_classifier=classes > 0)
    if note:
        warnings.warn(plain(note), stacklevel=5)
    return model


def _weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier modules; a distilled model has two."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
