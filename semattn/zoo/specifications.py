"""Specifications of models: one text for a model of any supported library.

``PREFIX:ADDRESS`` selects a loader of `sources`; a text without prefix is a name of timm, a folder,
or ``FILE.py:function``. A loader returns a `LoadedModel`. The modules of the loaders import their
library at the first use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import SemattnError
from ..images import Preprocessing
from ..utils.class_names import class_names
from ..utils.devices import AUTO, resolve_device
from ..utils.notebook import tell
from ..utils.provenance import SPECIFICATION
from ..utils.registry import Registry

DEFAULT = "semattn-vits14"
LOADERS = ("build", "transformers_models", "torchvision_models", "open_clip_models", "local_code")
_CODE = re.compile(r"(.+\.py):([^:/\\]*)")
FORMS = (
    "a name of timm, hf-hub:owner/name (timm), hf:owner/name or a folder (transformers), "
    "torchvision:vit_b_16, open-clip:ViT-B-32:TAG, torch-hub-dir:FOLDER:entry or FILE.py:function"
)


@dataclass(frozen=True)
class ModelRequest:
    """Model that a loader shall return.

    Parameters
    ----------
    specification : the text that the user gave
    address : the specification without its prefix
    checkpoint : file with weights; None without one
    pretrained : False for random weights
    labels : texts of the classes of a zero-shot model; () without them
    """

    specification: str
    address: str
    checkpoint: str | Path | None = None
    pretrained: bool = True
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedModel:
    """Model of a specification, with what the library that it comes from says about it.

    Parameters
    ----------
    model : the model; the kind of its output follows from its attributes, such as `problem_type`
    preprocessing : conversion of pictures; its number of values is the number of channels. None
        for a model with a `pretrained_cfg` of timm, which `Preprocessing.of` reads
    classes : class names; None if they are unknown or attributes of the model already
    origin : addition to the name of the model, such as "local code"; "" for none
    """

    model: nn.Module
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    origin: str = ""


class MissingLibraryError(SemattnError, ImportError):
    """Error for a model of a library that is not installed."""


Loader = Callable[[ModelRequest], LoadedModel]
sources: Registry[Loader] = Registry("model")
"""Loaders by the prefix of a specification: functions (request) -> `LoadedModel`."""


def load(
    name: str | None = None,
    *,
    checkpoint: str | Path | None = None,
    pretrained: bool = True,
    labels: Sequence[str] | None = None,
    device: str | torch.device = AUTO,
) -> nn.Module:
    """Load a vision transformer, with its preprocessing and its class names.

    The model is that of its library, in evaluation mode. `Preprocessing.of` reads its
    preprocessing, and `classes` or its config its class names. Local folders and files, and files
    in the caches of the libraries, are used without a network. A notebook or an interactive shell
    shows a line with what was loaded.

    Parameters
    ----------
    name : specification of a model: a name of `embedded_models` (None is the default model) or of
        timm; ``hf-hub:owner/name`` (timm), ``hf:owner/name`` or a folder (transformers, also CLIP
        and SigLIP), ``torchvision:vit_b_16``, ``open-clip:ViT-B-32:TAG``,
        ``torch-hub-dir:FOLDER:entry`` or ``FILE.py:function``. The last two run the code in
        that folder or file.
    checkpoint : file with weights for a timm model: `.safetensors`, or a file that timm, Lightning,
        DeiT or MAE saved with `torch.save`; code in the file is not run. If a file has several sets
        of weights, ``FILE#state_dict_ema`` selects one. The classifier in the file sets the number
        of classes; a warning says how the weights were selected.
    pretrained : False gives random weights
    labels : texts of the classes, such as "a photo of a cat", for CLIP and SigLIP, which become
        zero-shot classifiers
    device : device of the model; "auto" is CUDA, else MPS, else the CPU

    Raises
    ------
    ValueError
        For an unknown name; the message lists similar names.
    WeightsError
        If weights cannot be downloaded, or a file does not fit the model.

    Examples
    --------
    >>> load("vit_tiny_patch16_224", pretrained=False, device="cpu").embed_dim
    192
    """
    resolved_device = resolve_device(device)
    prefix, address = split_specification(name)
    specification = name or DEFAULT
    request = ModelRequest(specification, address, checkpoint, pretrained, _check_labels(labels))
    loaded = _loaders().resolve(prefix)(request)
    model = loaded.model.eval()
    label = f"{specification} ({loaded.origin})" if loaded.origin else specification
    for attribute, value in (
        ("preprocessing", loaded.preprocessing), ("classes", loaded.classes),
        (SPECIFICATION, label),
    ):  # fmt: skip
        if value is not None:
            setattr(model, attribute, value)
    model.to(resolved_device)
    tell(_description(model, label, resolved_device))
    return model


def _description(model: nn.Module, label: str, device: torch.device) -> str:
    """Return what was loaded, in one line."""
    parts = [f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million parameters"]
    if names := class_names(model):
        parts.append(f"{len(names):,} classes with names")
    with suppress(SemattnError):  # no preprocessing is known
        height, width = Preprocessing.of(model).size
        parts.append(f"pictures of {width} x {height} pixels")
    return f"{label}: {', '.join(parts)}, on {device}"


def split_specification(specification: str | None) -> tuple[str, str]:
    """Return the prefix of `sources` and the address of a specification.

    Examples
    --------
    >>> split_specification("torchvision:vit_b_16"), split_specification("vit_tiny_patch16_224")
    (('torchvision', 'vit_b_16'), ('timm', 'vit_tiny_patch16_224'))
    >>> split_specification("models/own.py:build")
    ('code', 'models/own.py:build')
    """
    if specification is None:
        return "timm", ""
    prefix, colon, address = specification.partition(":")
    if colon and prefix in _loaders():
        if not address:
            raise ValueError(
                f"model: expected an address after {specification!r}, got none — give {FORMS}"
            )
        return prefix, address
    if _CODE.fullmatch(specification) or specification.endswith(".py"):
        return "code", specification
    if (folder := Path(specification)).is_dir():
        return _source_of_folder(folder), specification
    if colon or "/" in specification or "\\" in specification:
        hint = "" if colon else f"hf:{specification} is the name of a model on the hub; "
        raise ValueError(
            f"model: unknown specification {specification!r} — no such folder exists; {hint}give "
            f"{FORMS}"
        )
    return "timm", specification


def check_no_checkpoint(request: ModelRequest) -> None:
    """Raise ValueError for a checkpoint beside a specification that has its own weights."""
    if request.checkpoint is not None:
        raise ValueError(
            f"checkpoint: expected none for {request.specification!r}, which has its own weights, "
            f"got {str(request.checkpoint)!r} — load it in a function and give FILE.py:function"
        )


def check_no_labels(request: ModelRequest) -> None:
    """Raise ValueError for labels of a model that has its own classes."""
    if request.labels:
        raise ValueError(
            f"labels: expected none for {request.specification!r}, which is not a zero-shot model, "
            "got some — leave out --labels, or give a model of CLIP or SigLIP"
        )


def missing_package(package: str, request: ModelRequest) -> MissingLibraryError:
    """Return the error for a library that is not installed."""
    return MissingLibraryError(
        f"model: expected the package {package} for {request.specification!r}, got none — "
        "pip install 'semattn[hf]'"
    )


def _loaders() -> Registry[Loader]:
    """Return `sources` after importing the modules that register loaders."""
    for module in LOADERS:
        import_module(f".{module}", __package__)
    return sources


def _source_of_folder(folder: Path) -> str:
    """Return the prefix of a folder with a model, by its config file."""
    if (folder / "open_clip_config.json").is_file():
        return "open-clip"
    config = _read_config(folder / "config.json")
    if "model_type" in config:
        return "hf"
    if "architecture" in config:
        return "local-dir"
    if (folder / "hubconf.py").is_file():
        raise ValueError(
            f"model: expected the entry of a torch.hub folder, got {str(folder)!r} — give "
            f"torch-hub-dir:{folder}:ENTRY"
        )
    raise ValueError(
        f"model: expected a folder with the config.json of transformers or timm, or with "
        f"open_clip_config.json, got {str(folder)!r} — save the model with save_pretrained, "
        "or give FILE.py:function"
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _check_labels(labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels as a tuple, after checking that they are at least two different texts."""
    if labels is None:
        return ()
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise TypeError(
            f"labels: expected a list of texts, got {labels!r} — give ['a cat', 'a dog']"
        )
    texts = tuple(label.strip() for label in labels)
    if len(texts) < 2 or "" in texts or len(set(texts)) < len(texts):
        raise ValueError(
            f"labels: expected at least two different texts, got {list(texts)!r} — give "
            "'a cat,a dog', or a file with one text per line"
        )
    return texts
