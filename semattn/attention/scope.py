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
    isolated: int = 0  # number of open `apart` contexts in this thread
    layouts: int = 0  # number of these that only read the token layout
    passes: int = 0  # depth of passes within passes
    calling: bool = False


_state = _ThreadState()


@dataclass(frozen=True)
class Owner:
    """Caller identity: thread, asyncio task, and the depth of isolated contexts and nested passes.

    Parameters
    ----------
    every_pass : whether passes that hooks of the model start belong to this owner as well
    """

    every_pass: bool = False
    thread: threading.Thread = field(default_factory=threading.current_thread)
    task: Any = field(default_factory=lambda: _current_task())
    depth: tuple[int, int] = field(default_factory=lambda: depth())

    def calls(self) -> bool:
        """Return whether the running code belongs to this owner."""
        return (
            threading.current_thread() is self.thread
            and _current_task() is self.task
            and self._is_same_depth()
        )

    def calls_or_recomputes(self) -> bool:
        """Return `calls()`, or True in an autograd worker thread that recomputes a forward pass."""
        if self.calls():
            return True
        is_worker = isinstance(threading.current_thread(), threading._DummyThread)
        return is_worker and self._is_same_depth() and in_backward()

    def _is_same_depth(self) -> bool:
        isolated, passes = self.depth
        return _state.isolated == isolated and (self.every_pass or _state.passes == passes)


def in_backward() -> bool:
    """Return whether autograd is running a backward pass in this thread."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def apart(*, layout: bool = False) -> Iterator[None]:
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
def nested() -> Iterator[None]:
    """Increase the pass depth if the ``with`` is inside a pass; otherwise change nothing.

    Everything that attaches to a model uses this context, since a hook in the pass of another model
    may be the caller. The outer attachment then ignores what runs inside the ``with``.
    """
    outer = _state.passes, _state.calling
    _state.passes, _state.calling = outer[0] + outer[1], False
    try:
        yield
    finally:
        _state.passes, _state.calling = outer


@contextmanager
def calling() -> Iterator[None]:
    """Mark the call of the model that the attachments are made for."""
    outer, _state.calling = _state.calling, True
    try:
        yield
    finally:
        _state.calling = outer


def depth() -> tuple[int, int]:
    """Return the numbers of open isolated contexts and of nested passes in this thread."""
    return _state.isolated, _state.passes


def laying_out() -> bool:
    """Return whether this thread runs a pass that only reads the token layout."""
    return _state.layouts > 0


def _current_task() -> Any:
    """Return the asyncio task that runs in this thread; None outside an event loop."""
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)
