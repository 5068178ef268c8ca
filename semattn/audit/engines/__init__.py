"""Engines: ways to compute the units of an audit. All of them write the same files.

An engine is one file with one decorator. It is a context manager; `run` yields the results of the
units, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from ...data.sources import Source
from ...utils.registry import Registry
from ..batch_size import Unit
from ..unit_computer import UnitComputer
from ..unit_store import UnitResult

Result = TypeVar("Result")


class Engine(Protocol):
    """Engine that computes the units of an audit."""

    device: torch.device  # kind of device that the units are computed on
    seconds_between_saves: float  # of the sums of the analysis

    def __enter__(self) -> Engine:
        """Start the processes."""

    def __exit__(self, *error: object) -> None:
        """Stop the processes that were started."""

    def call(self, computer: UnitComputer, function: Callable[[UnitComputer], Result]) -> Result:
        """Return the result of a function, called once where units are computed."""

    def run(
        self, computer: UnitComputer, source: Source, units: Sequence[Unit],
        report: Callable[[int], None],
    ) -> Generator[UnitResult, None, None]:  # fmt: skip
        """Compute units and yield their results; `report` is called with the images done."""


class MakeEngine(Protocol):
    """Function that returns an engine for a model."""

    def __call__(self, model: nn.Module, *, workers: int | None, **options: Any) -> Engine:
        """Return the engine; `workers` is the number of processes that read images."""


engines: Registry[MakeEngine] = Registry("engine")

from . import local, ray  # noqa: E402, F401 — they register themselves
