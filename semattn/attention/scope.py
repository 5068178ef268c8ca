"""Whose calls an attachment sees: those of the thread and the asyncio task that made it.

Hooks lie on the model, which many may use at once; each looks first who is calling. A pass within
a pass, as a hook of the model may start one, is told apart by its depth. While one thread puts a
hook there or takes it away, PyTorch may call it in another one without the kwargs that it was
registered for, so that a hook with kwargs must not name its parameters.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


class _Here(threading.local):
    looks: int = 0  # how many `apart` this thread is in
    layouts: int = 0  # and how many of them only see how a model is laid out
    passes: int = 0  # how many passes within passes
    calling: bool = False


_here = _Here()


@dataclass(frozen=True)
class Owner:
    """The thread, the asyncio task in it, and how deep in looks and passes.

    Parameters
    ----------
    every_pass : whether passes that hooks of the model start are its own as well
    """

    every_pass: bool = False
    thread: threading.Thread = field(default_factory=threading.current_thread)
    task: Any = field(default_factory=lambda: _task())
    depth: tuple[int, int] = field(default_factory=lambda: depth())

    def calls(self) -> bool:
        """Whether the code that asks runs for this owner."""
        return threading.current_thread() is self.thread and _task() is self.task and self._deep()

    def calls_again(self) -> bool:
        """As `calls`, or an autograd worker that no Python thread started makes a pass anew."""
        if self.calls():
            return True
        foreign = isinstance(threading.current_thread(), threading._DummyThread)
        return foreign and self._deep() and in_backward()

    def _deep(self) -> bool:
        looks, passes = self.depth
        return _here.looks == looks and (self.every_pass or _here.passes == passes)


def in_backward() -> bool:
    """Whether autograd is making a backward pass here."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def apart(*, layout: bool = False) -> Iterator[None]:
    """What runs inside the ``with`` is seen by no attachment that was there before it.

    For a look at a model, or for sums of one's own, from within its pass. With `layout`, nothing
    but the places of tokens is looked at: a prompter that is called leaves the model as it is.
    """
    _here.looks += 1
    _here.layouts += layout
    try:
        yield
    finally:
        _here.looks -= 1
        _here.layouts -= layout


@contextmanager
def nested() -> Iterator[None]:
    """For all that attaches to a model: a hook in the pass of another one may be where it does so.

    Then that one does not see what runs inside the ``with``; else nothing is different there.
    """
    outer = _here.passes, _here.calling
    _here.passes, _here.calling = outer[0] + outer[1], False
    try:
        yield
    finally:
        _here.passes, _here.calling = outer


@contextmanager
def calling() -> Iterator[None]:
    """Around a call of the model that attachments are there for."""
    outer, _here.calling = _here.calling, True
    try:
        yield
    finally:
        _here.calling = outer


def depth() -> tuple[int, int]:
    """How many looks this thread is in, and how many passes within passes."""
    return _here.looks, _here.passes


def laying_out() -> bool:
    """Whether this thread only sees how a model is laid out."""
    return _here.layouts > 0


def _task() -> Any:
    """The asyncio task that runs in this thread; None outside of a loop."""
    loop = asyncio._get_running_loop()
    return None if loop is None else asyncio.current_task(loop)
