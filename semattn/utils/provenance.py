"""Provenance of results: the model, its weights, and the versions of the packages."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from .digest import UnreadableError, digest

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

WEIGHTS_SOURCE = "weights_source"  # attribute of a model that `about_model` reads


def model_label(manifest: Mapping[str, Any]) -> str:
    """Return the display name of the model of a result.

    Examples
    --------
    >>> model_label({"architecture": "vit_tiny", "weights": "random, seed 0"})
    'vit_tiny (weights: random, seed 0)'
    """
    name = str(manifest.get("architecture") or manifest.get("model") or "")
    weights = manifest.get("weights")
    return f"{name} (weights: {weights})" if weights else name


def about_model(model: nn.Module) -> dict[str, Any]:
    """Return the identity of a model, ready for JSON.

    `weights` is the source of the weights, if they are not the standard ones of the architecture.
    `weights_sha256` is None if the weights have no digest; `weights_note` then gives the reason.
    """
    config = getattr(model, "pretrained_cfg", None)
    about: dict[str, Any] = {
        "model": type(model).__name__,
        "architecture": config.get("architecture") if isinstance(config, dict) else None,
    }
    if source := getattr(model, WEIGHTS_SOURCE, None):
        about["weights"] = str(source)
    try:
        return about | {"weights_sha256": weights_digest(model)}
    except UnreadableError as error:
        note = f"weights_sha256 is null: {error}"
        return about | {"weights_sha256": None, "weights_note": note}


def weights_digest(model: nn.Module) -> str:
    """Return the `digest` of everything in the model's `state_dict`.

    Raises
    ------
    UnreadableError
        For weights that are offloaded, sharded, or of an unknown kind.
    """
    try:
        state = model.state_dict()
    except Exception as error:  # of the model's own code
        reason = " ".join(str(error).split())[:120]
        raise UnreadableError(
            f"the model's state_dict fails ({type(error).__name__}: {reason})"
        ) from error
    return digest(state)


def unconfirmed(manifest: Mapping[str, Any]) -> str:
    """Return why the weights of a run cannot be compared with others; "" if they can."""
    if manifest.get("weights_sha256", "") is not None:
        return ""
    return str(manifest.get("weights_note", "weights_sha256 is null"))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
