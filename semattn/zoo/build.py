"""`load`: a name, or a name and a file, become a model to explain.

The only module that builds models. What comes back is timm's own model and nothing round it, in
evaluation mode, with `pretrained_cfg` saying how images are prepared, and `classes` where the
names are known.
"""

from __future__ import annotations

import difflib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from .weights import WeightsError, backbone

DEFAULT = "semattn-vits14"
AVERAGED = "fc_norm.weight"  # in a state dict of timm: patches are averaged before the classifier
embedded = Registry("model")
"""Models that need no hub: name -> function of (pretrained) that gives the model."""


def load(
    name: str | None = None,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    device: str | torch.device = "cpu",
) -> nn.Module:
    """A vision transformer to explain.

    Parameters
    ----------
    name : one of `embedded` (the embedded default when None), or any name that timm knows
    checkpoint : file of weights for a model of timm's: `.safetensors`, or a file of torch, such as
        timm, Lightning, DeiT and MAE save in training, which is read without running code that it
        may carry. ``FILE#state_dict_ema`` chooses where a file holds several sets of weights.
        The classifier in it sets the number of classes; a warning says what was assumed.
    pretrained : False gives random weights
    device : where the model goes

    Raises
    ------
    ValueError
        For a name that nobody knows; the message names the nearest ones.
    WeightsError
        When weights cannot be fetched, or a file does not fit the model.

    Examples
    --------
    >>> load("vit_tiny_patch16_224", pretrained=False).embed_dim
    192
    """
    if name is None and checkpoint is not None:
        raise ValueError(
            f"model: expected the name that {checkpoint} belongs to, got none — name the "
            "architecture, such as vit_small_patch14_dinov2"
        )
    name = name or DEFAULT
    if name in embedded and checkpoint is None:
        model = embedded[name](pretrained)
    elif timm.is_model(name.partition(".")[0]):
        model = _from_timm(name, checkpoint, pretrained)
    elif name in embedded:
        raise ValueError(
            f"checkpoint: expected none for {name!r}, which has its own weights, got "
            f"{str(checkpoint)!r} — name the architecture with it"
        )
    else:
        near = difflib.get_close_matches(name, [*embedded, *timm.list_models()], n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"model: unknown name {name!r} — {hint}choose {', '.join(embedded)} or one of timm's "
            f"{len(timm.list_models())} (python -c 'import timm; print(timm.list_models())')"
        )
    return model.eval().to(device)


@embedded.register(DEFAULT)
def _everyday(pretrained: bool) -> nn.Module:
    """The embedded DINOv2 ViT-S/14 with the head over everyday classes that semattn carries."""
    classes = tuple(json.loads(_data("classes.json")))
    # Weights that are replaced at once are not drawn.
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
    """The state with what was trained put into it.

    A change named `W.down` (rank, in) with its `W.up` (out, rank) is added to W as up @ down; any
    other replaces what has its name.

    Examples
    --------
    >>> one = torch.ones(2, 2)
    >>> merge({"w": one}, {"w.up": one[:, :1], "w.down": 2 * one[:1]})["w"].tolist()
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
        with _hushed("huggingface_hub"):  # it tells every retry; one line at the end is enough
            return _named(timm.create_model(name, pretrained=pretrained), pretrained)
    except Exception as error:  # whatever the hub's client of the day raises
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        told = told.partition(". ")[0][:160]
        if not pretrained:
            raise ValueError(f"model: expected timm to build {name!r}, got {told!r}") from error
        raise WeightsError(
            f"model: expected pretrained weights for {name!r} from timm's hub, got {told!r} — "
            "give a checkpoint file, or ask for random weights with pretrained=False"
        ) from error


@contextmanager
def _hushed(name: str) -> Iterator[None]:
    """Keep a logger to errors meanwhile."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _named(model: nn.Module, pretrained: bool) -> nn.Module:
    """The model with `classes`, where its weights are known to be for a list of ImageNet's."""
    subset = infer_imagenet_subset(model) if pretrained else None
    if subset:
        model.classes = tuple(ImageNetInfo(subset).label_descriptions())  # type: ignore[assignment]
    return model


def synsets(outputs: int) -> tuple[str, ...]:
    """WordNet numbers of the classes, where so many outputs are a list of ImageNet's; else ()."""
    subset = infer_imagenet_subset({"num_classes": outputs})
    return tuple(ImageNetInfo(subset).label_names()) if subset else ()


def _with_checkpoint(name: str, checkpoint: str | Path) -> nn.Module:
    """Build the model of that name with the weights of a file: `checkpoint` of `load`."""
    path, label = split_choice(checkpoint)
    states = read_states(path)
    options: dict[str, Any] = {}
    model = timm.create_model(name, pretrained=False)
    is_averaged = any(key.endswith(AVERAGED) for _, state in states for key in state)
    if is_averaged and isinstance(getattr(model, "fc_norm", None), nn.Identity):
        options["global_pool"] = "avg"  # as MAE's fine-tuned models: the mean of the patches
        model = timm.create_model(name, pretrained=False, **options)
    classifiers = _classifiers(model)
    weights = find_weights(states, path, label, name, _shapes(model), classifiers)
    head = weights.tensors.get(f"{classifiers[0]}.weight") if classifiers else None
    classes = head.shape[0] if head is not None and head.ndim else 0
    if classes != model.num_classes:
        model = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    check_weights(weights, path, name, _shapes(model), getattr(model, "num_prefix_tokens", 0))
    model.load_state_dict(weights.tensors, strict=True)
    note = weights.note(has_classifier=classes > 0)
    if note:
        warnings.warn(plain(note), stacklevel=4)
    return model


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that give the classes; a distilled model has two."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)
