"""Where a result came from: the model, its weights, and the versions that it depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor, nn

from .digest import digest

_PACKAGES = (
    "semattn",
    "torch",
    "timm",
    "captum",
    "opencv-python",
    "opencv-python-headless",
    "scikit-image",
    "numpy",
)


def about_model(model: nn.Module) -> dict[str, Any]:
    """What tells a model from another, ready for JSON."""
    config = getattr(model, "pretrained_cfg", None)
    return {
        "model": type(model).__name__,
        "architecture": config.get("architecture") if isinstance(config, dict) else None,
        "weights_sha256": weights_digest(model),
    }


def weights_digest(model: nn.Module) -> str:
    """The `digest` of the model's parameters and buffers."""
    return digest(
        {name: one for name, one in model.state_dict().items() if isinstance(one, Tensor)}
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
