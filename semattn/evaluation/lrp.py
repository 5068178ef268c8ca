"""Relevance propagation with the code of hilrp, whose patches are undone afterwards.

hilrp (based on lxt and zennit) replaces methods of classes, including torch's GELU and LayerNorm,
and does not restore them, which would change all later gradients of the process. This module
restores the classes after each map.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from ..errors import SemattnError, UnsupportedModelError
from ..grid import PatchGrid
from .methods import peers

MODES = {"hilrp/AttnLRP": "attnlrp", "hilrp/CP-LRP": "cp"}
"""Row to hilrp's name of the rules for attention: AttnLRP (arXiv 2402.05602), or its default."""
PARTS = ("hilrp", "hilrp.vit_lxt", "zennit.core")


def _backend(row: str) -> list[Any]:
    try:
        return [importlib.import_module(package) for package in PARTS]
    except ImportError as error:
        raise SemattnError(
            f"{row}: expected the packages hilrp, lxt and zennit to import, got "
            f"{type(error).__name__}: {' '.join(str(error).split())} — on Python >= 3.11.11, "
            "pip install hilrp 'transformers<5', or remove this method"
        ) from error


@contextlib.contextmanager
def put_back(owners: Iterable[Any]) -> Iterator[None]:
    """Undo every attribute that is set, replaced or added on classes and modules inside."""
    before = [(owner, dict(vars(owner))) for owner in owners]
    try:
        yield
    finally:
        for owner, attributes in before:
            for name in set(vars(owner)) - set(attributes):
                delattr(owner, name)
            for name, value in attributes.items():
                if vars(owner)[name] is not value:
                    setattr(owner, name, value)


def _register(row: str, mode: str) -> None:
    @peers.register(row)
    def relevance(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
        library, port, zennit = _backend(row)
        if not any(type(module) is port.Attention for module in model.modules()):
            raise UnsupportedModelError(
                f"{row}: expected a plain vision transformer of timm, got {type(model).__name__} — "
                "remove this method"
            )
        model_copy = copy.deepcopy(model)  # parameters of the copy keep gradients
        with put_back([port, zennit.BasicHook, *port.VIT_PATCH_MAP]):
            result = library.attribute(
                model_copy, inputs, target=target, arch="vit", attn_mode=mode
            )
        return result["pixel_map"]


for _row, _mode in MODES.items():
    _register(_row, _mode)
