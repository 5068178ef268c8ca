"""Engine of this process: it computes the units in order, and worker processes read the images."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

from torch import nn

from ...attention.model_call import model_device
from ...data.loading import LoadedBatch
from ...data.prefetching import default_workers, load_batches
from ...data.sources import Source
from ..batch_size import Unit
from ..unit_computer import UnitComputer, UnitTask
from ..unit_store import UnitResult
from . import engines

Result = TypeVar("Result")


@engines.register("local")
class LocalEngine:
    """Engine of this process.

    Parameters
    ----------
    model : a vision transformer, on its device
    workers : processes that read images and detect keypoints; None for the cores that the model
        does not use
    unused : options of other engines, which must be None
    """

    seconds_between_saves = 0.0

    def __init__(self, model: nn.Module, *, workers: int | None, **unused: Any) -> None:
        for name, value in unused.items():
            if value is not None:
                raise ValueError(
                    f"{name}: expected none with the engine 'local', got {value!r} — choose the "
                    "engine 'ray'"
                )
        self.device = model_device(model)
        self.workers = default_workers(model) if workers is None else workers

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no process outlives `run`."""

    def call(self, computer: UnitComputer, function: Callable[[UnitComputer], Result]) -> Result:
        """Return the result of a function."""
        return function(computer)

    def run(
        self, computer: UnitComputer, source: Source, units: Sequence[Unit],
        report: Callable[[int], None],
    ) -> Generator[UnitResult, None, None]:  # fmt: skip
        """Compute the units in order."""
        batches = [batch for unit in units for batch in unit.batches]
        data, image_loader = source.data, computer.image_loader
        image_loader.names = source.names
        loaded_batches = load_batches(
            image_loader, data.sources, batches, self.workers, data.labels
        )

        def batches_of(unit: Unit) -> Iterator[LoadedBatch]:
            for loaded in islice(loaded_batches, len(unit.batches)):
                yield loaded
                report(loaded.n_sources)

        with closing(loaded_batches):
            for unit in units:
                yield computer.compute(UnitTask.of(unit, source), batches_of(unit))
