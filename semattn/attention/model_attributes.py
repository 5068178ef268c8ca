"""Snapshots of the attributes of a model on which its token layout may depend.

Two snapshots are equal if no number, list, dict, function or integer tensor among the attributes
has changed. A snapshot does not keep the model alive.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device})
_MODULE_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_MAX_DEPTH = 3
_MAX_ELEMENTS = 4096  # of a list, a dict or an array


def attributes_of(model: nn.Module) -> tuple[Any, ...]:
    """Return the class, the attributes and the foreign hooks of every module."""
    return tuple(
        (
            type(module),
            tuple(
                (name, value if type(value) in _PLAIN else _snapshot(value))
                for name, value in vars(module).items()
                if name not in _MODULE_INTERNALS
            ),
            tuple(map(_tensor_snapshot, module._buffers.values())) if module._buffers else (),
            _foreign_hooks(module) if module._forward_hooks or module._forward_pre_hooks else (),
        )
        for module in model.modules()
    )


def changed_attributes(
    first: tuple[Any, ...], second: tuple[Any, ...]
) -> frozenset[tuple[int, str]]:
    """Return the differing attributes as (module number, name); "" is the module itself."""
    if first == second:
        return frozenset()
    if len(first) != len(second):
        return frozenset({(-1, "")})
    differences = set()
    for number, (old, new) in enumerate(zip(first, second, strict=True)):
        if (old[0], *old[2:]) != (new[0], *new[2:]):
            differences.add((number, ""))
        before, after = dict(old[1]), dict(new[1])
        differences |= {
            (number, name)
            for name in before.keys() | after.keys()
            if before.get(name, ...) != after.get(name, ...)
        }
    return frozenset(differences)


def _snapshot(value: Any, depth: int = 0) -> Any:
    """Return a comparable snapshot, equal to an earlier one if `value` has not changed."""
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and all(type(item) in _PLAIN for item in value)):
        return value
    if isinstance(value, Tensor):
        return _tensor_snapshot(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes() if value.size <= _MAX_ELEMENTS else id(value)
    if isinstance(value, nn.Module) or depth > _MAX_DEPTH:
        return None
    if isinstance(value, MethodType):
        return id(value.__func__), id(value.__self__)
    if isinstance(value, partial):
        return id(value.func), _snapshot([*value.args, *value.keywords.items()], depth + 1)
    if isinstance(value, (list, tuple)) and len(value) <= _MAX_ELEMENTS:
        return type(value), tuple(_snapshot(item, depth + 1) for item in value)
    if isinstance(value, dict) and len(value) <= _MAX_ELEMENTS:
        return dict, tuple((repr(key), _snapshot(item, depth + 1)) for key, item in value.items())
    if callable(value) or not hasattr(value, "__dict__"):
        return id(value)
    return id(value), _snapshot(vars(value), depth + 1)


def _tensor_snapshot(value: Tensor | None) -> Any:
    """Return identity, version and shape of an integer tensor, a possible index; else None."""
    if value is None or value.is_floating_point() or value.is_complex():
        return None
    version = None if value.is_inference() else value._version
    return id(value), version, tuple(value.shape)


def _foreign_hooks(module: nn.Module) -> tuple[int, ...]:
    """Return the ids of the hooks that semattn did not register."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return tuple(id(hook) for hook in hooks if not _is_semattn_hook(hook))


def _is_semattn_hook(hook: Any) -> bool:
    function = hook.func if isinstance(hook, partial) else hook
    return str(getattr(function, "__module__", "")).startswith("semattn.")
