"""Relevance propagation by hilrp's own code, with everything that it patches put back.

hilrp (on lxt and zennit) replaces methods of classes, torch's GELU and LayerNorm among them, and
leaves them so: every gradient of the process would be another one afterwards. Here the classes are
as they were as soon as the map is there.
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
        return [importlib.import_module(one) for one in PARTS]
    except ImportError as error:
        raise SemattnError(
            f"{row}: expected the packages hilrp, lxt and zennit to import, got "
            f"{type(error).__name__}: {' '.join(str(error).split())} — on Python >= 3.11.11, "
            "pip install hilrp 'transformers<5', or leave this row out"
        ) from error


@contextlib.contextmanager
def put_back(owners: Iterable[Any]) -> Iterator[None]:
    """Whatever is set, replaced or added on classes and modules inside is undone."""
    before = [(one, dict(vars(one))) for one in owners]
    try:
        yield
    finally:
        for one, kept in before:
            for name in set(vars(one)) - set(kept):
                delattr(one, name)
            for name, value in kept.items():
                if vars(one)[name] is not value:
                    setattr(one, name, value)


def _enter(row: str, mode: str) -> None:
    @peers.register(row)
    def relevance(model: nn.Module, inputs: Tensor, target: int, grid: PatchGrid) -> Tensor:
        library, port, zennit = _backend(row)
        if not any(type(one) is port.Attention for one in model.modules()):
            raise UnsupportedModelError(
                f"{row}: expected a plain vision transformer of timm, got {type(model).__name__} — "
                "leave this row out"
            )
        copied = copy.deepcopy(model)  # gradients of parameters stay on what it has seen
        with put_back([port, zennit.BasicHook, *port.VIT_PATCH_MAP]):
            made = library.attribute(copied, inputs, target=target, arch="vit", attn_mode=mode)
        return made["pixel_map"]


for _row, _mode in MODES.items():
    _enter(_row, _mode)
