"""Classifiers of torchvision: ``torchvision:vit_b_16`` or ``torchvision:vit_b_16:WEIGHTS``."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch

from ..images import Preprocessing
from ..utils.registry import unknown_name_message
from .hub_cache import first_line
from .specifications import LoadedModel, ModelRequest, check_no_checkpoint, check_no_labels, sources
from .weights import WeightsError


@sources.register("torchvision")
def load_torchvision(request: ModelRequest) -> LoadedModel:
    """Load a classifier of torchvision with the transforms of its weights."""
    from torchvision import models

    check_no_labels(request)
    check_no_checkpoint(request)
    name, _, weights_name = request.address.partition(":")
    names = models.list_models(module=models)
    if name not in names:
        raise ValueError(unknown_name_message("model", name, names))
    entries: Any = models.get_model_weights(name)
    if weights_name and weights_name not in (*entries.__members__, "DEFAULT"):
        raise ValueError(
            unknown_name_message("model weights", weights_name, [*entries.__members__, "DEFAULT"])
        )
    weights = entries[weights_name] if weights_name else entries.DEFAULT
    preprocessing = Preprocessing.of(weights.transforms())
    model = models.get_model(name, weights=None)
    if not request.pretrained:
        return LoadedModel(model, preprocessing)
    model.load_state_dict(_state(request, weights))
    return LoadedModel(model, preprocessing, tuple(weights.meta["categories"]))


def _state(request: ModelRequest, weights: Any) -> dict[str, Any]:
    """Return the weights from torch.hub's cache, or download them; tensors only."""
    try:
        with redirect_stderr(io.StringIO()):  # torch.hub prints the address
            state: dict[str, Any] = weights.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except Exception as error:  # of the network, or a damaged file
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise WeightsError(
            f"model: expected the weights of {request.specification!r}, got {first_line(error)!r} "
            f"— run curl -L --create-dirs -o {file} {weights.url} with a network, or use random "
            "weights"
        ) from error
    return state
