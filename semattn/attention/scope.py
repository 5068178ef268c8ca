"""Scope of an attachment: the calls of the thread and asyncio task that created it.

Hooks are registered on the model, which several threads may use at once, so each hook first checks
who the caller is. A pass inside another pass, which a hook of the model may start, is distinguished
by its depth. While one thread registers or removes a hook, PyTorch may call the hook in another
thread without the kwargs that it was registered for; a hook with kwargs must therefore not name its
parameters.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


class _ThreadState(threading.local):
    isolated: int = 0  # number of open `isolated` contexts in this thread
    layouts: int = 0  # number of these that only read the token layout
    passes: int = 0  # depth of passes within passes
    is_running: bool = False


_state = _ThreadState()


@dataclass(frozen=True)
class CallScope:
    """Caller identity: thread, asyncio task, and the depth of isolated contexts and nested passes.

    Parameters
    ----------
    include_nested : whether passes that hooks of the model start belong to this scope as well
    """

    include_nested: bool = False
    thread: threading.Thread = field(default_factory=threading.current_thread)
    task: Any = field(default_factory=lambda: _current_task())
    depth: tuple[int, int] = field(default_factory=lambda: depth())

    def is_current(self) -> bool:
        """Return whether the running code belongs to this scope."""
        return (
            threading.current_thread() is self.thread
            and _current_task() is self.task
            and self._is_same_depth()
        )

    def is_current_or_recomputing(self) -> bool:
        """Return `is_current()`, or True in an autograd worker thread that recomputes a pass."""
        if self.is_current():
            return True
        is_worker = isinstance(threading.current_thread(), threading._DummyThread)
        return is_worker and self._is_same_depth() and in_backward()

    def _is_same_depth(self) -> bool:
        n_isolated, n_passes = self.depth
        return _state.isolated == n_isolated and (self.include_nested or _state.passes == n_passes)


def in_backward() -> bool:
    """Return whether autograd is running a backward pass in this thread."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def isolated(*, layout: bool = False) -> Iterator[None]:
    """Hide the passes inside the ``with`` from all attachments that exist before it.

    Used for extra passes and computations from within a pass of the model. With `layout`, the pass
    only reads the token layout: a prompter that is called leaves the model unchanged.
    """
    _state.isolated += 1
    _state.layouts += layout
    try:
        yield
    finally:
        _state.isolated -= 1
        _state.layouts -= layout


@contextmanager
def nested_pass() -> Iterator[None]:
    """Increase the pass depth if the ``with`` is inside a pass; otherwise change nothing.

    Everything that attaches to a model uses this context, since a hook in the pass of another model
    may be the caller. The outer attachment then ignores what runs inside the ``with``.
    """
    outer = _state.passes, _state.is_running
    _state.passes, _state.is_running = outer[0] + outer[1], False
    try:
        yield
    finally:
        _state.passes, _state.is_running = outer


@contextmanager
def model_running() -> Iterator[None]:
    """Mark the call of the model that the attachments are made for."""
    outer, _state.is_running = _state.is_running, True
    try:
        yield
    finally:
        _state.is_running = outer


def depth() -> tuple[int, int]:
    """Return the numbers of open isolated contexts and of nested passes in this thread."""
    return _state.isolated, _state.passes


def is_tracing() -> bool:
    """Return whether this thread runs a pass that only reads the token layout."""
    return _state.layouts > 0


def _current_task() -> Any:
    """Return the asyncio task that runs in this thread; None outside an event loop."""
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)
