"""Notes the last layers that run in a pass of a model; the meaning of its output follows from them.

Forward hooks are set for one pass and removed after it; each looks first who is calling.
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
from .scope import Owner

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Bilinear)
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Flatten, nn.Unflatten)
Call = tuple[nn.Module, Tensor]  # a layer and its result
_STACK, _BLOCK = 3, 6  # blocks of a stack, layers of a block, at least
_KEPT_CALLS = 4  # last calls of layers that are kept until the pass ends


@dataclass
class OutputWatch:
    """The last layers that ran in a pass of a model, and what its output was taken for.

    `calls` are those of any layer, `heads` those of linear layers that returned rows (B, K).
    """

    model: nn.Module
    owner: Owner = field(default_factory=lambda: Owner(every_pass=True))
    calls: deque[Call] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))
    heads: deque[Call] = field(default_factory=lambda: deque(maxlen=_KEPT_CALLS))
    meaning: OutputMeaning | None = None
    outer: OutputWatch | None = None
    open: bool = True

    def note_call(self, module: nn.Module, _inputs: Any, result: Any) -> None:
        """Keep the result of a layer; the forward hook."""
        is_array = isinstance(result, Tensor) and result.ndim > 0 and not result.is_nested
        if self.meaning is None and is_array and self.owner.calls():
            call = module, result
            self.calls.append(call)
            if isinstance(module, LINEAR) and result.numel() == len(result) * width(result):
                self.heads.append(call)

    def decide(self, meaning: OutputMeaning) -> None:
        """Keep the meaning, and nothing else of the pass."""
        self.meaning = meaning
        self.calls.clear()
        self.heads.clear()


_watch: ContextVar[OutputWatch | None] = ContextVar("semattn_output_watch", default=None)
_Decisions = list[tuple[nn.Module | None, OutputMeaning]]
_decisions: ContextVar[_Decisions | None] = ContextVar("semattn_decisions", default=None)


@contextmanager
def watch_output(model: nn.Module) -> Iterator[OutputWatch]:
    """Note the last layers of `model` that run inside the ``with``, for `output_meaning`.

    Layers without sublayers are noted, since one of them makes the output; of a stack of equal
    blocks, those of its last block. Hooks are removed after.
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


def _last_layers(module: nn.Module, seen: frozenset[nn.Module] = frozenset()) -> list[nn.Module]:
    """The layers without sublayers that may run last; `seen` are the modules around this one."""
    children = [child for child in module.children() if child not in seen]
    seen |= {module}
    if not children:
        return [] if isinstance(module, _TRANSPARENT) else [module]
    stacked = isinstance(module, nn.ModuleList | nn.Sequential) and len(children) >= _STACK
    if stacked and len({type(child) for child in children}) == 1:
        last = _last_layers(children[-1], seen)
        # Small equal children may be heads, each of which may make the output.
        if len(last) >= _BLOCK:
            return last
    # A layer that is shared between parts runs once in the list.
    return list(dict.fromkeys(layer for child in children for layer in _last_layers(child, seen)))


@contextmanager
def noted_meanings() -> Iterator[None]:
    """Collect the meanings that are decided inside the ``with``, for `decided_meaning`."""
    token = _decisions.set([])
    try:
        yield
    finally:
        _decisions.reset(token)


def note_meaning(model: nn.Module | None, meaning: OutputMeaning) -> None:
    """Add a decision to those that `noted_meanings` collects."""
    decisions = _decisions.get()
    if decisions is not None:
        decisions.append((model, meaning))


def decided_meaning(model: nn.Module) -> OutputMeaning:
    """The first meaning of the output of `model` inside `noted_meanings`; else class logits."""
    decisions = _decisions.get() or []
    return next((meaning for owner, meaning in decisions if owner is model), OutputMeaning())


def current_watch(model: nn.Module | None = None) -> OutputWatch | None:
    """The watch that is open here, if it is one of `model`."""
    watch = _watch.get()
    if watch is None or (model is not None and watch.model is not model):
        return None
    return watch if watch.owner.calls() else None


def width(tensor: Tensor) -> int:
    """The number of outputs of an image: K of (B, K) or (B, K, 1, 1), 1 of (B,)."""
    return 1 if tensor.ndim == 1 else tensor.shape[1]
