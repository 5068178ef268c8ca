"""Record of the last layers that run in a pass of a model, from which its output is interpreted.

Forward hooks are registered for one pass and removed after it. Each hook checks its caller first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..targets import OutputMeaning
from .scope import CallScope

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Bilinear)
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)
LayerCall = tuple[nn.Module, Tensor]  # a layer and its result
_MIN_BLOCKS, _MIN_BLOCK_LAYERS = 3, 6  # of a stack of equal blocks
_MAX_CALLS = 4  # last calls that are kept until the pass ends


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
