"""Contexts of one pass of a model: frozen parameters, correct gradients, and a watched output.

Dropout would make the recorded attention differ from the recomputed one, and parameters that
require gradients would make every layer keep its input. The last layers that run in the pass show
what the output means, see `output_meaning`. Everything is restored after the pass.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..targets import OutputMeaning
from .scope import CallScope

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Bilinear)
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)
LayerCall = tuple[nn.Module, Tensor]  # a layer and its result
_MIN_BLOCKS, _MIN_BLOCK_LAYERS = 3, 6  # of a stack of equal blocks
_MAX_CALLS = 4  # last calls that are kept until the pass ends


@dataclass
class _HeldFlag:
    """Flag `training` of a module, or `requires_grad` of a parameter, that is held at False."""

    owner: nn.Module | nn.Parameter
    holders: int = 0

    def set(self, active: bool) -> None:
        if isinstance(self.owner, nn.Module):
            self.owner.training = active
        else:
            self.owner.requires_grad_(active)


_held_flags: dict[int, _HeldFlag] = {}  # by id of the owner, which the entry keeps alive
_lock = threading.Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Hold `model` in evaluation mode without parameter gradients; restore every flag afterwards.

    Several threads may use the context on one model, or on a part of it, at once: the holders of
    each module and parameter are counted, and the last one to exit restores it.

    Gradients through the model are correct meanwhile, see `correct_batchnorm_gradients`.
    """
    keys: list[int] = []
    try:
        with _lock:
            owners: list[nn.Module | nn.Parameter] = [*model.modules(), *model.parameters()]
            for owner in owners:
                active = owner.training if isinstance(owner, nn.Module) else owner.requires_grad
                if active and id(owner) not in _held_flags:
                    _held_flags[id(owner)] = _HeldFlag(owner)
                if id(owner) in _held_flags:
                    _held_flags[id(owner)].holders += 1
                    keys.append(id(owner))
                    _held_flags[id(owner)].set(False)
        # The pass inside the context decides the meaning of the output, see `output_meaning`.
        with correct_batchnorm_gradients(model), watch_output(model):
            yield
    finally:
        with _lock:
            for key in keys:
                _held_flags[key].holders -= 1
                if not _held_flags[key].holders:
                    _held_flags.pop(key).set(True)


class KeepGradients(TorchFunctionMode):
    """Function mode in which `torch.no_grad` and `detach` inside a model do not stop gradients."""

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        if func is Tensor.detach:
            return args[0].view_as(args[0])
        return func(*args, **(kwargs or {}))


@contextmanager
def correct_batchnorm_gradients(model: nn.Module) -> Iterator[None]:
    """Correct the gradients through the `BatchNorm2d` layers of a model inside the ``with``.

    With one image in the batch, PyTorch (2.15, on a CPU) mistakes tokens that were reshaped to a
    picture for channels-last memory, because it ignores the stride of an axis of length one. The
    gradient that it returns is then wrong; LeViT's stem is an example. The hooks set that stride to
    the value that it has for several images. They change and copy no values.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(_correct_input) for norm in norms]
    handles += [norm.register_forward_hook(_correct_output) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _correct_input(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
    if inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad:
        return (_with_batch_stride(inputs[0]), *inputs[1:])
    return None


def _correct_output(_: nn.Module, _inputs: Any, output: Any) -> None:
    if isinstance(output, Tensor) and output.requires_grad:
        output.register_hook(_with_batch_stride)


def _with_batch_stride(tensor: Tensor) -> Tensor:
    """Return a view of the same memory whose batch axis has the stride of a larger batch."""
    if len(tensor) != 1 or tensor.stride(0) >= tensor[0].numel():
        return tensor
    return tensor.as_strided(tensor.shape, (tensor[0].numel(), *tensor.stride()[1:]))


@dataclass
class OutputWatch:
    """Last layer calls in a pass of a model, and the meaning decided for its output.

    `calls` are those of any layer, `heads` those of linear layers that returned rows (B, K).
    """

    model: nn.Module
    scope: CallScope = field(default_factory=lambda: CallScope(include_nested=True))
    calls: deque[LayerCall] = field(default_factory=lambda: deque(maxlen=_MAX_CALLS))
    heads: deque[LayerCall] = field(default_factory=lambda: deque(maxlen=_MAX_CALLS))
    meaning: OutputMeaning | None = None
    outer: OutputWatch | None = None
    open: bool = True

    def note_call(self, module: nn.Module, _inputs: Any, result: Any) -> None:
        """Store the result of a layer; used as a forward hook."""
        is_array = isinstance(result, Tensor) and result.ndim > 0 and not result.is_nested
        if self.meaning is None and is_array and self.scope.is_current():
            call = module, result
            self.calls.append(call)
            if isinstance(module, LINEAR) and result.numel() == len(result) * width(result):
                self.heads.append(call)

    def decide(self, meaning: OutputMeaning) -> None:
        """Store the meaning and drop the recorded calls."""
        self.meaning = meaning
        self.calls.clear()
        self.heads.clear()


_watch: ContextVar[OutputWatch | None] = ContextVar("semattn_output_watch", default=None)
_Decisions = list[tuple[nn.Module | None, OutputMeaning]]
_decisions: ContextVar[_Decisions | None] = ContextVar("semattn_decisions", default=None)


@contextmanager
def watch_output(model: nn.Module) -> Iterator[OutputWatch]:
    """Record the last layers of `model` that run inside the ``with``, for `output_meaning`.

    Only layers without sublayers are recorded, since one of them returns the output; in a stack of
    equal blocks, only those of the last block. The hooks are removed afterwards.
    """
    watch = OutputWatch(model, outer=_watch.get())
    hooks = [module.register_forward_hook(watch.note_call) for module in _last_layers(model)]
    _watch.set(watch)
    try:
        yield watch
    finally:
        watch.open = False
        current = _watch.get()
        while current is not None and not current.open:  # contexts may end in any order
            current = current.outer
        _watch.set(current)
        for hook in hooks:
            hook.remove()


def _last_layers(module: nn.Module, parents: frozenset[nn.Module] = frozenset()) -> list[nn.Module]:
    """Return the layers without sublayers that may run last; `parents` enclose this module."""
    children = [child for child in module.children() if child not in parents]
    parents |= {module}
    if not children:
        return [] if isinstance(module, _TRANSPARENT) else [module]
    is_stack = isinstance(module, nn.ModuleList | nn.Sequential) and len(children) >= _MIN_BLOCKS
    if is_stack and len({type(child) for child in children}) == 1:
        last = _last_layers(children[-1], parents)
        # Small equal children may be heads, each of which may return the output.
        if len(last) >= _MIN_BLOCK_LAYERS:
            return last
    # A layer that is shared between parts is listed once.
    return list(
        dict.fromkeys(layer for child in children for layer in _last_layers(child, parents))
    )


@contextmanager
def collect_meanings() -> Iterator[None]:
    """Collect the meanings that are decided inside the ``with``, for `first_meaning`."""
    token = _decisions.set([])
    try:
        yield
    finally:
        _decisions.reset(token)


def note_meaning(model: nn.Module | None, meaning: OutputMeaning) -> None:
    """Add a decision to those that `collect_meanings` collects."""
    decisions = _decisions.get()
    if decisions is not None:
        decisions.append((model, meaning))


def first_meaning(model: nn.Module) -> OutputMeaning:
    """Return the first meaning for `model` in `collect_meanings`; class logits without one."""
    decisions = _decisions.get() or []
    return next((meaning for other, meaning in decisions if other is model), OutputMeaning())


def current_watch(model: nn.Module | None = None) -> OutputWatch | None:
    """Return the open watch of the caller, if it watches `model` or `model` is None."""
    watch = _watch.get()
    if watch is None or (model is not None and watch.model is not model):
        return None
    return watch if watch.scope.is_current() else None


def width(tensor: Tensor) -> int:
    """Return the number of outputs per image: K of (B, K) or (B, K, 1, 1), 1 of (B,)."""
    return 1 if tensor.ndim == 1 else tensor.shape[1]
