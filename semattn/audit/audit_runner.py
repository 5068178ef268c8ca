"""`audit`, and `AuditRunner`, which runs the units of one process and stores their results.

A unit is a fixed number of batches of images, see `batch_size`.
"""

from __future__ import annotations

import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..attention.model_call import model_device
from ..attention.sites import check_model
from ..data.loading import ImageLoader, LoadedBatch, Skipped
from ..data.prefetching import default_workers, load_batches
from ..data.sources import Source
from ..density import density_needs
from ..errors import SemattnError
from ..explain import Explanation, explainers
from ..images import Preprocessing
from ..interrelation import Analysis
from ..interrelation.analysis_runner import AnalysisRunner
from ..keypoints import detectors
from ..utils.atomic_files import atomic_write, write_text
from ..utils.processes import Progress
from ..utils.provenance import about_model, versions
from ..utils.registry import unknown_name_message
from ..utils.run_store import RunStore
from .batch_size import Unit, choose_batch_size, split_into_units
from .bisect import bisect_failures
from .tables import SKIPPED, TABLE, check_parquet, concatenate_rows, explanation_rows, write_tables
from .unit_store import MAPS, SUMMARY, UnitStore

JOBS = ("explain", "analyze")
STORE = ".audit"  # folder of the finished units
SHOWN = 4  # reasons that an error lists


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Parameters
    ----------
    summary : counts and means of the tables, ready for JSON; None while units of other processes
        are missing
    analysis : analysis of all images; None if it was not requested or is not complete
    skipped : images that this process left out, and the reasons
    images : number of images that this process explained or analysed
    seconds : run time of this process
    waiting : number of units, over all processes, that are not finished
    files : written files, by name
    """

    summary: dict[str, Any] | None
    analysis: Analysis | None
    skipped: tuple[Skipped, ...]
    images: int
    seconds: float
    waiting: int
    files: dict[str, Path]


def audit(
    model: nn.Module,
    source: Source,
    out: str | Path,
    *,
    jobs: Sequence[str] = JOBS,
    method: str = "sift-patch-interrelation",
    density: str = "count",
    detector: str = "sift",
    batch_size: int | None = None,
    workers: int | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    process: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> Audit:
    """Explain and analyse every image of a source; resume an earlier call that was interrupted.

    Several processes, on one machine or on many that share a disk, may share the work, each with
    its index in `process`. They do not communicate; the last one writes the tables. The tables
    equal those of a single process, byte for byte, if all processes use the same kind of device
    and the same number of threads.

    Parameters
    ----------
    model : a vision transformer, on its device
    source : result of `open_source`
    out : output folder, with ``explain.parquet`` (one row per image), ``skipped.parquet``,
        ``maps/``, ``audit.json``, and ``.audit/`` for the finished units. A unit is a group of
        consecutive batches that is computed and stored as a whole; ``maps/`` has one .npz file per
        unit, with the array `maps` (n, h, w), where each map sums to 1
    jobs : "explain", "analyze", or both
    method, density, detector, preprocessing, seed : as in `semattn.explain.Explainer`
    batch_size : images per forward pass; None chooses from the free memory
    workers : processes that read images and detect keypoints; None for the cores that the model
        does not use
    process : index of this process, from 0, and number of processes
    progress : called with the stage, the number of images done by this process, and its total

    Raises
    ------
    SemattnError
        For the folder of another audit; for an unsupported model, before the first image; and,
        after the tables are written, for a source without a readable image.
    """
    check_jobs(jobs)
    check_parquet()
    options = {"method": method, "density": density, "detector": detector, "seed": seed}
    runner = AuditRunner(model, source, Path(out), tuple(jobs), options, preprocessing)
    result = runner.run(batch_size, workers, process, progress)
    if result.summary is not None and result.summary["skipped"] >= len(source):
        check_readable(result.files["skipped"], len(source))
    return result


class AuditRunner:
    """Runner of the units of an audit that one process computes.

    Parameters
    ----------
    model, source, out, jobs, preprocessing : as in `audit`
    options : method, density, detector and seed
    """

    def __init__(
        self, model: nn.Module, source: Source, out: Path, jobs: tuple[str, ...],
        options: dict[str, Any], preprocessing: Preprocessing | None,
    ) -> None:  # fmt: skip
        self.model = check_model(model, compiled=True)
        self.source, self.out, self.jobs, self.options = source, out, jobs, options
        self.preprocessing = preprocessing or Preprocessing.of(model)
        explainer_options = {name: options[name] for name in ("density", "detector", "seed")}
        self.explainer = explainers.resolve(options["method"])(
            **explainer_options, preprocessing=self.preprocessing
        )
        detectors.resolve(options["detector"])
        needs = density_needs(options["density"])
        self.image_loader = ImageLoader(
            self.preprocessing, options["detector"], needs, source.names
        )
        self.device = model_device(model)
        self.about = about_model(model)
        self.manifest = self.about | {
            "source": {"images": len(source)},
            "jobs": list(jobs),
            "parameters": {**options, "preprocessing": str(self.preprocessing)},
            "method": self.explainer.parameters(),
            "device": self.device.type,
            "versions": versions(),
        }
        # Each unit stores the identities of its own images.
        run = {name: value for name, value in self.manifest.items() if name != "source"}
        self.store = RunStore(out / STORE, run, "audit")
        self.skipped: list[Skipped] = []

    def run(
        self,
        batch_size: int | None,
        workers: int | None,
        process: tuple[int, int],
        progress: Progress | None,
    ) -> Audit:
        """Compute the remaining units of this process; write the tables if no unit is missing."""
        with self.store.running(process, also=(self.out, self.out / MAPS)):
            units = split_into_units(len(self.source), self._choose_batch_size(batch_size))
            self.analysis_runner = self._new_analysis_runner(units[0].size)
            if "analyze" in self.jobs:  # on noise: the model may fail on the first image of a unit
                self.analysis_runner.find_grid(self._noise(1, self.analysis_runner))
            (self.out / MAPS).mkdir(parents=True, exist_ok=True)
            self.unit_store = UnitStore(self.store, self.source, self.out, units, process)
            todo = self.unit_store.todo()
            total, done = sum(unit.stop - unit.first for unit in todo), 0
            start = time.perf_counter()
            batches = [batch for unit in todo for batch in unit.batches]
            worker_count = default_workers(self.model) if workers is None else workers
            data = self.source.data
            loaded_batches = load_batches(
                self.image_loader, data.sources, batches, worker_count, data.labels
            )

            def batches_of(unit: Unit) -> Iterator[LoadedBatch]:
                nonlocal done
                for loaded in islice(loaded_batches, len(unit.batches)):
                    yield loaded
                    done += loaded.n_sources
                    if progress is not None:
                        progress("auditing", done, total)

            with closing(loaded_batches):
                for unit in todo:
                    self._do_unit(unit, batches_of(unit))
            seconds = time.perf_counter() - start
            waiting = self.unit_store.waiting()
            note = self.unit_store.note()
            summary, analysis, files = (None, None, {}) if waiting else self._finish(units)
            if note:
                warnings.warn(note, stacklevel=3)
            return Audit(summary, analysis, tuple(self.skipped), total, seconds, waiting, files)

    def _do_unit(self, unit: Unit, batches: Iterator[LoadedBatch]) -> None:
        """Compute one unit; store its maps, then its rows, then its sums, which complete it."""
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
                results, failed = bisect_failures(self._explain, part)
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
        rows = concatenate_rows(parts)
        maps = rows.pop("maps", None)
        if maps is not None:
            with atomic_write(self.out / MAPS / f"{unit.name}.npz") as stream:
                np.savez_compressed(stream, number=rows["number"], maps=maps)
        columns = [list(column) for column in zip(*skipped, strict=True)] or [[], [], []]
        rows |= {
            f"skipped_{name}": np.array(column, dtype=str)
            for name, column in zip(("name", "job", "reason"), columns, strict=True)
        }
        digest = self.unit_store.keep(unit, rows, identities, analysed)
        if analysed:
            self.unit_store.sums.add(unit.number, digest, runner.result())
        self.skipped += [Skipped(name, reason) for name, _, reason in skipped]

    def _explain(self, loaded: LoadedBatch) -> dict[str, np.ndarray]:
        labels = [self.source.data.labels[number] for number in loaded.numbers]
        return explanation_rows(self._explanation(loaded), loaded.numbers, labels)

    def _explanation(self, loaded: LoadedBatch) -> Explanation:
        assert loaded.images is not None  # a batch without readable images is not explained
        return self.explainer.explain(
            self.model, loaded.images, keypoints=loaded.keypoints, manifest=self.manifest
        )

    def _finish(self, units: list[Unit]) -> tuple[dict[str, Any], Analysis | None, dict[str, Path]]:
        """Write the tables of all units; return their summary, the analysis, and the files."""
        classes = self.source.data.names

        def parts() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for unit in units:
                yield unit.number, self.unit_store.arrays(unit)

        counts = write_tables(self.out, parts(), self.source.names, classes)
        counts["images"] = len(self.source)
        counts["labels"] = self.source.data.note or "given"
        counts["broken"] = [list(name_and_reason) for name_and_reason in self.source.broken]
        analysis = (
            self.unit_store.sums.merged(self.source.names) if "analyze" in self.jobs else None
        )
        self.manifest["source"] = {"images": len(self.source), "sha256": self.unit_store.complete()}
        summary = {"summary": counts, "manifest": self.manifest}
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.out / SUMMARY, text + "\n")
        names = {"table": TABLE, "skipped": SKIPPED, "summary": SUMMARY}
        files = {name: self.out / file for name, file in names.items()}
        return counts, analysis, files

    def _choose_batch_size(self, requested: int | None) -> int:
        """Return the batch size: as the first process of the audit chose it."""
        if requested is not None and requested < 1:
            raise ValueError(f"batch_size: expected at least 1, got {requested}")
        stored = self.store.read_row("batch")
        if stored is None:
            # One image runs in any case, so that an unsupported model fails here, and only once.
            if requested is not None:
                self._dry_run(1)
            size = requested or choose_batch_size(self._dry_run, self.device)
            stored = self.store.store_row_if_absent("batch", {"size": size})
        if requested not in (None, stored["size"]):
            raise SemattnError(
                f"batch_size: expected {stored['size']}, the value of the first run in this "
                f"folder, got {requested} — omit it or choose another folder"
            )
        return int(stored["size"])

    def _dry_run(self, size: int) -> None:
        """Run all computations of a batch on images of random noise."""
        runner = self._new_analysis_runner(size)
        loaded = self._noise(size, runner)
        if "explain" in self.jobs:
            self._explanation(loaded)
        if "analyze" in self.jobs:
            runner.add_batch(loaded)

    def _noise(self, size: int, runner: AnalysisRunner) -> LoadedBatch:
        rng = np.random.default_rng(0)
        noise = [
            rng.integers(0, 256, (*self.preprocessing.size, 3), dtype=np.uint8) for _ in range(size)
        ]
        return runner.image_loader.load(0, noise, strict=True)

    def _new_analysis_runner(self, size: int) -> AnalysisRunner:
        return AnalysisRunner(self.model, {
            "density": self.options["density"], "detector": self.options["detector"],
            "layers": None, "n_null": 3, "pool_size": 32, "n_bootstrap": 200, "batch_size": size,
            "seed": self.options["seed"], "preprocessing": self.preprocessing,
        }, self.about)  # fmt: skip


def check_readable(table: Path, image_count: int) -> None:
    """Raise SemattnError if the table of skipped images lists every image as not readable."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(table, columns=["job", "reason"]).to_pylist()
    reasons = [row["reason"].partition(" — ")[0] for row in rows if row["job"] == "read"]
    if len(reasons) < image_count:
        return
    counts = Counter(re.sub("'.*'", "a file", reason) for reason in reasons)
    summary = "; ".join(f"{count}: {reason}" for reason, count in counts.most_common(SHOWN))
    raise SemattnError(
        f"source: expected readable images, got none of {image_count} ({summary}) — {table} lists "
        "them"
    )


def check_jobs(jobs: Sequence[str], available: Sequence[str] = JOBS) -> None:
    """Raise ValueError unless `jobs` has at least one job and all are available."""
    for job in jobs:
        if job not in available:
            raise ValueError(unknown_name_message("job", job, available))
    if not jobs:
        raise ValueError(
            f"jobs: expected at least one, got none — choose from {', '.join(available)}"
        )
