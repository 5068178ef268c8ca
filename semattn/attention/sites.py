"""Attention sites, the numbering of their layers, and the check that a model can be hooked.

A forward pass finds the modules that attend (`layout_pass`); `find_sites` guesses from their names.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import UnsupportedModelError

NAMED_ATTENTION = re.compile(r"attention|attn|^(MHSA|GPSA|XCA)$", re.IGNORECASE)
_POOL_NAME = re.compile(r"pool|prr|class_?att", re.IGNORECASE)
_POOL_PARENT_NAME = re.compile(
    r"att.*pool|pool.*att", re.IGNORECASE
)  # class name of the parent of a site

Layers = int | slice | Sequence[int] | str | None


@dataclass(frozen=True)
class AttentionSite:
    """Module of a model that makes an attention call.

    `name` is the dotted name of the module and `module` its class. `layer` counts the
    self-attention sites from 0; a pool has the number of the last one. `kind` is "self" (every
    token is a query) or "pool" (a few learned queries). `call` is the number of the attention call
    within one run of the module; None is all calls. `query_axis` is the axis of the queries in
    scores where it is not next to the axis of the keys.
    """

    name: str
    layer: int
    module: str
    kind: str
    call: int | None = None
    query_axis: int | None = None

    @property
    def path(self) -> str:
        """Dotted name of the module; `name` adds the number of one of several calls."""
        return self.name.partition("[")[0]

    def __str__(self) -> str:
        return f"{self.name or 'the model'} ({self.module})"


def check_model(model: object, *, compiled: bool = False) -> nn.Module:
    """Return the module to hook; raise UnsupportedModelError for a model that hooks cannot read.

    With `compiled`, a model wrapped by `torch.compile` is replaced by the module inside the
    wrapper. That is enough to run the model, but not to change how the wrapper runs it.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModelError(
            f"model: expected a torch.nn.Module, got {type(model).__name__} — "
            "pass the model itself, not a function of it"
        )
    inner = getattr(model, "_orig_mod", model) if compiled else model
    assert isinstance(inner, nn.Module)
    for name, module in inner.named_modules():
        is_traced = isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule)
        is_compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None)
        if is_traced or is_compiled:
            where = f" in {name!r}" if name else ""
            raise UnsupportedModelError(
                f"model: expected eager PyTorch, got a traced, exported or compiled "
                f"{type(module).__name__}{where}, whose attention calls are not visible — "
                "pass the original model"
            )
    if any(parameter.is_inference() for parameter in inner.parameters()):
        raise UnsupportedModelError(
            "model: expected parameters that support gradients, got some created under "
            "torch.inference_mode — build or load the model outside of it"
        )
    return inner


def find_sites(
    model: nn.Module, among: Container[nn.Module] | None = None
) -> dict[nn.Module, AttentionSite]:
    """Return the modules of `model` whose names suggest attention, in order; only those in `among`.

    This is a guess, used before a forward pass has shown which modules attend. It may be empty.
    """
    named = [
        (name, module)
        for name, module in model.named_modules()
        if _may_attend(module) and (among is None or module in among)
    ]
    outer = {
        module
        for _, module in named
        if any(_may_attend(inner) for inner in module.modules() if inner is not module)
    }
    sites: dict[nn.Module, AttentionSite] = {}
    layer = 0
    for name, module in named:
        if module in outer:
            continue
        parent = type(model.get_submodule(name.rpartition(".")[0])).__name__
        is_pool = _POOL_NAME.search(type(module).__name__) or _POOL_PARENT_NAME.search(parent)
        kind = "pool" if is_pool else "self"
        number = max(layer - 1, 0) if kind == "pool" else layer
        sites[module] = AttentionSite(name, number, type(module).__name__, kind)
        layer += kind == "self"
    return sites


def _may_attend(module: nn.Module) -> bool:
    return hasattr(module, "fused_attn") or bool(NAMED_ATTENTION.search(type(module).__name__))


def choose_layers(layers: Layers, depth: int) -> list[int]:
    """Return layer numbers in 0 … depth-1 for an int, a list, a slice or a name (None: all).

    Names are "all", "last-half" and "last-third".

    Examples
    --------
    >>> choose_layers("last-half", 12)
    [6, 7, 8, 9, 10, 11]
    >>> choose_layers([-1, 0], 12)
    [0, 11]
    """
    if layers is None or layers == "all":
        return list(range(depth))
    if layers == "last-half":
        return list(range(depth // 2, depth))
    if layers == "last-third":
        return list(range(depth - max(1, depth // 3), depth))
    if isinstance(layers, slice):
        selected = list(range(depth))[layers]
    elif isinstance(layers, str):
        raise ValueError(
            f"layers: expected 'all', 'last-half', 'last-third', numbers or a slice, got "
            f"{reprlib.repr(layers)} — "
            f"this model has layers 0 to {depth - 1}"
        )
    else:
        numbers = list(layers) if isinstance(layers, Iterable) else [layers]
        if not all(isinstance(number, int) and -depth <= number < depth for number in numbers):
            raise ValueError(
                f"layers: expected numbers in {-depth} … {depth - 1}, got {reprlib.repr(layers)} — "
                f"this model has {depth} self-attention layers"
            )
        selected = sorted({number % depth for number in numbers})
    if not selected:
        raise ValueError(
            f"layers: expected at least one of 0 … {depth - 1}, got {reprlib.repr(layers)}"
        )
    return selected
