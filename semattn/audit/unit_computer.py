"""Computation of one unit of an audit: maps, table rows and sums, by any process.

A unit gives the same files in every process and at every attempt, so that it may be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..attention.model_call import model_device
from ..data.labelled import Part
from ..data.loading import ImageLoader, LoadedBatch
from ..data.sources import Source
from ..explain import Explainer, Explanation
from ..interrelation.analysis_runner import AnalysisRunner
from .batch_size import Unit, choose_batch_size
from .bisect import bisect_failures
from .tables import concatenate_rows, explanation_rows
from .unit_store import UnitResult, maps_file, rows_file


@dataclass(frozen=True)
class UnitTask:
    """Unit with its pictures, their names and their labels, so that any process can compute it."""

    unit: Unit
    sources: Part[Any]
    names: Part[str]
    labels: Part[int | None]

    @classmethod
    def of(cls, unit: Unit, source: Source) -> UnitTask:
        """Return the task of a unit of a source."""
        numbers = range(unit.first, unit.stop)
        columns: tuple[Any, ...] = (source.data.sources, source.names, source.data.labels)
        parts = [Part([column[number] for number in numbers], unit.first) for column in columns]
        return cls(unit, *parts)


class UnitComputer:
    """Model and options that compute the units of an audit, in this process or in another.

    It writes nothing: the results hold the contents of the files.

    Parameters
    ----------
    model : a vision transformer, on its device
    explainer, analysis_runner, image_loader : of the options of the audit
    jobs, manifest : of the audit
    """

    def __init__(
        self, model: nn.Module, explainer: Explainer, analysis_runner: AnalysisRunner,
        image_loader: ImageLoader, jobs: tuple[str, ...], manifest: dict[str, Any],
    ) -> None:  # fmt: skip
        self.model, self.explainer, self.analysis_runner = model, explainer, analysis_runner
        self.image_loader, self.jobs, self.manifest = image_loader, jobs, manifest

    def compute(self, task: UnitTask, batches: Iterator[LoadedBatch]) -> UnitResult:
        """Compute one unit."""
        runner = self.analysis_runner.empty_copy()
        analyse = "analyze" in self.jobs
        parts: list[dict[str, np.ndarray]] = []
        skipped: list[tuple[str, str, str]] = []
        identities: list[str] = []
        for loaded in runner.fill_pool(batches) if analyse else batches:
            identities += loaded.identities
            skipped += [(image.name, "read", image.reason) for image in loaded.skipped]
            runner.skipped += loaded.skipped
            if loaded.images is None:
                continue
            part = loaded.part(slice(None))
            if "explain" in self.jobs:
                results, failed = bisect_failures(lambda batch: self._explain(batch, task), part)
                parts += results
                skipped += [(image.name, "explain", image.reason) for image in failed]
            if analyse:
                skipped_before = len(runner.skipped)
                _, failed = bisect_failures(runner.add_batch, part)
                runner.skipped += failed
                skipped += [
                    (image.name, "analyze", image.reason)
                    for image in runner.skipped[skipped_before:]
                ]
        analysed = analyse and runner.tally is not None and runner.tally.images > 0
        files = _files(parts, identities, skipped, analysed)
        analysis = runner.result() if analysed else None
        return UnitResult(task.unit, identities, skipped, analysis, *files)

    def leave_out(self, task: UnitTask, identities: list[str], reason: str) -> UnitResult:
        """Return a unit that cannot be computed: all its images are skipped, with the reason."""
        skipped = [(name, job, reason) for name in task.names.items for job in self.jobs]
        files = _files([], identities, skipped, analysed=False)
        return UnitResult(task.unit, identities, skipped, None, *files, is_left_out=True)

    def choose_batch_size(self) -> int:
        """Return the batch size for the free memory of this machine."""
        return choose_batch_size(self.dry_run, model_device(self.model))

    def noise(self, size: int) -> LoadedBatch:
        """Return images of random noise."""
        rng = np.random.default_rng(0)
        shape = (*self.image_loader.preprocessing.size, 3)
        noise = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(size)]
        return self.analysis_runner.image_loader.load(0, noise, strict=True)

    def dry_run(self, size: int) -> None:
        """Run all computations of a batch of noise, and store nothing."""
        loaded = self.noise(size)
        if "explain" in self.jobs:
            self.explanation(loaded)
        if "analyze" in self.jobs:
            self.analysis_runner.empty_copy().add_batch(loaded)

    def explanation(self, loaded: LoadedBatch) -> Explanation:
        """Explain the images of a batch."""
        assert loaded.images is not None  # a batch without readable images is not explained
        return self.explainer.explain(
            self.model, loaded.images, keypoints=loaded.keypoints, manifest=self.manifest
        )

    def _explain(self, loaded: LoadedBatch, task: UnitTask) -> dict[str, np.ndarray]:
        labels = [task.labels[number] for number in loaded.numbers]
        return explanation_rows(self.explanation(loaded), loaded.numbers, labels)


def _files(
    parts: Sequence[dict[str, np.ndarray]], identities: Sequence[str],
    skipped: Iterable[tuple[str, str, str]], analysed: bool,
) -> tuple[bytes, bytes | None]:  # fmt: skip
    """Return the contents of the files of a unit: of its rows, and of its maps, if it has any."""
    rows = concatenate_rows(parts)
    maps = rows.pop("maps", None)
    columns = [list(column) for column in zip(*skipped, strict=True)] or [[], [], []]
    rows |= {
        f"skipped_{name}": np.array(column, dtype=str)
        for name, column in zip(("name", "job", "reason"), columns, strict=True)
    }
    content_of_maps = None if maps is None else maps_file(rows["number"], maps)
    return rows_file(rows, identities, analysed), content_of_maps
