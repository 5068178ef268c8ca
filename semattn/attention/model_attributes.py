"""The attributes of a model on which the layout of its tokens may depend.

Two snapshots of them are equal while no attribute changes: no number, list, table or function, and
no tensor of whole numbers. Nothing in a snapshot keeps the model alive.
"""

from __future__ import annotations

from functools import partial
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.device})
_OWN = frozenset(vars(nn.Module())) - {"training"}  # what every module has
_DEEPEST = 3
_LONGEST = 4096  # elements of a list, a dict or an array


def attributes_of(model: nn.Module) -> tuple[Any, ...]:
    """Return the class, the attributes, and the hooks of other people, of every module."""
    return tuple(
        (
            type(module),
            tuple(
                (name, value if type(value) in _PLAIN else _snapshot(value))
                for name, value in vars(module).items()
                if name not in _OWN
            ),
            tuple(map(_of_tensor, module._buffers.values())) if module._buffers else (),
            _own_hooks(module) if module._forward_hooks or module._forward_pre_hooks else (),
        )
        for module in model.modules()
    )


def changed(first: tuple[Any, ...], second: tuple[Any, ...]) -> frozenset[tuple[int, str]]:
    """Return which attributes differ: number of the module and name; "" for the module itself."""
    if first == second:
        return frozenset()
    if len(first) != len(second):
        return frozenset({(-1, "")})
    found = set()
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        if (one[0], *one[2:]) != (other[0], *other[2:]):
            found.add((number, ""))
        before, after = dict(one[1]), dict(other[1])
        names = before.keys() | after.keys()
        found |= {(number, name) for name in names if before.get(name, ...) != after.get(name, ...)}
    return frozenset(found)


def _snapshot(value: Any, deep: int = 0) -> Any:
    """Return a value that is equal to another snapshot while `value` does not change."""
    kind = type(value)
    if kind in _PLAIN or (kind is tuple and all(type(one) in _PLAIN for one in value)):
        return value
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes() if value.size <= _LONGEST else id(value)
    if isinstance(value, nn.Module) or deep > _DEEPEST:
        return None
    if isinstance(value, MethodType):
        return id(value.__func__), id(value.__self__)
    if isinstance(value, partial):
        return id(value.func), _snapshot([*value.args, *value.keywords.items()], deep + 1)
    if isinstance(value, (list, tuple)) and len(value) <= _LONGEST:
        return type(value), tuple(_snapshot(one, deep + 1) for one in value)
    if isinstance(value, dict) and len(value) <= _LONGEST:
        return dict, tuple((repr(key), _snapshot(one, deep + 1)) for key, one in value.items())
    if callable(value) or not hasattr(value, "__dict__"):
        return id(value)
    return id(value), _snapshot(vars(value), deep + 1)


def _of_tensor(value: Tensor | None) -> Any:
    """Return the identity and version of a tensor that may be an index; None for another one."""
    if value is None or value.is_floating_point() or value.is_complex():
        return None
    version = None if value.is_inference() else value._version
    return id(value), version, tuple(value.shape)


def _own_hooks(module: nn.Module) -> tuple[int, ...]:
    """Return the hooks that are not semattn's."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return tuple(id(hook) for hook in hooks if not _is_ours(hook))


def _is_ours(hook: Any) -> bool:
    function = hook.func if isinstance(hook, partial) else hook
    return str(getattr(function, "__module__", "")).startswith("semattn.")
