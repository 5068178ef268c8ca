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
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..attention.sites import check_model
from ..data.loading import ImageLoader, Skipped
from ..data.sources import Source
from ..density import density_needs
from ..errors import SemattnError
from ..explain import explainers
from ..images import Preprocessing
from ..interrelation import Analysis
from ..interrelation.analysis_runner import AnalysisRunner
from ..keypoints import detectors
from ..utils.atomic_files import write_text
from ..utils.processes import Progress
from ..utils.provenance import about_model, versions
from ..utils.registry import unknown_name_message
from ..utils.remote_path import check_local
from ..utils.run_store import RunStore
from .batch_size import Unit, split_into_units
from .engines import Engine, engines
from .tables import SKIPPED, TABLE, check_parquet, write_tables
from .unit_computer import UnitComputer
from .unit_store import MAPS, SUMMARY, UnitStore, drop_left_out

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
    engine: str = "local",
    address: str | None = None,
    actors: int | tuple[int, int] | None = None,
    gpus: float | None = None,
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
    process : index of this process, from 0, and number of processes; (0, 1) with Ray
    engine : "local", this process; or "ray", a Ray cluster, whose machines read the images by the
        same paths; this process writes the results (`pip install 'semattn[ray]'`)
    address, actors, gpus : with Ray, see `semattn.audit.engines.ray.RayEngine`: address of the
        cluster, number of copies of the model (or the least and the greatest), GPUs of each
    progress : called with the stage, the number of images done by this process, and its total

    Raises
    ------
    SemattnError
        For the folder of another audit; for an unsupported model, before the first image; and,
        after the tables are written, for a source without a readable image.
    """
    check_jobs(jobs)
    check_local(out)
    check_parquet()
    model = check_model(model, compiled=True)
    if engine != "local" and process != (0, 1):
        raise ValueError(
            f"process: expected (0, 1) with the engine {engine!r}, got {process} — the engine "
            "shares the work itself"
        )
    make_engine = engines.resolve(engine)
    options = {"method": method, "density": density, "detector": detector, "seed": seed}
    with make_engine(model, workers=workers, address=address, actors=actors, gpus=gpus) as started:
        runner = AuditRunner(model, source, Path(out), tuple(jobs), options, preprocessing, started)
        result = runner.run(batch_size, process, progress)
    if result.summary is not None and result.summary["skipped"] >= len(source):
        check_readable(result.files["skipped"], len(source))
    return result


class AuditRunner:
    """Runner of the units of an audit that one process computes, or hands out to its engine.

    Parameters
    ----------
    model : a supported model, see `check_model`
    source, out, jobs, preprocessing : as in `audit`
    options : method, density, detector and seed
    engine : engine that has started
    """

    def __init__(
        self, model: nn.Module, source: Source, out: Path, jobs: tuple[str, ...],
        options: dict[str, Any], preprocessing: Preprocessing | None, engine: Engine,
    ) -> None:  # fmt: skip
        self.model = model
        self.source, self.out, self.jobs, self.options = source, out, jobs, options
        self.engine = engine
        self.preprocessing = preprocessing or Preprocessing.of(model, needed_by="audit")
        explainer_options = {name: options[name] for name in ("density", "detector", "seed")}
        explainer = explainers.resolve(options["method"])(
            **explainer_options, preprocessing=self.preprocessing
        )
        detectors.resolve(options["detector"])
        needs = density_needs(options["density"])
        self.about = about_model(model)
        self.manifest = self.about | {
            "source": {"images": len(source)},
            "jobs": list(jobs),
            "parameters": {**options, "preprocessing": str(self.preprocessing)},
            "method": explainer.parameters(),
            "device": engine.device.type,
            "versions": versions(),
        }
        # Each unit stores the identities of its own images.
        run = {name: value for name, value in self.manifest.items() if name != "source"}
        self.store = RunStore(out / STORE, run, "audit")
        self.computer = UnitComputer(
            self.model, explainer, self._new_analysis_runner(1),
            ImageLoader(self.preprocessing, options["detector"], needs), jobs, self.manifest,
        )  # fmt: skip
        self.skipped: list[Skipped] = []

    def run(
        self, batch_size: int | None, process: tuple[int, int], progress: Progress | None
    ) -> Audit:
        """Compute the remaining units of this process; write the tables if no unit is missing."""
        with self.store.running(process, also=(self.out, self.out / MAPS)):
            size = self._choose_batch_size(batch_size)
            units = split_into_units(len(self.source), size)
            runner = self.computer.analysis_runner = self._new_analysis_runner(size)
            if "analyze" in self.jobs:  # on noise: the model may fail on the first image of a unit
                runner.find_grid(self.computer.noise(1))
            (self.out / MAPS).mkdir(parents=True, exist_ok=True)
            drop_left_out(self.store)
            self.unit_store = UnitStore(self.store, self.source, self.out, units, process)
            todo = self.unit_store.todo()
            total, done = sum(unit.stop - unit.first for unit in todo), 0
            start = time.perf_counter()

            def report(images: int) -> None:
                nonlocal done
                done += images
                if progress is not None:
                    progress("auditing", done, total)

            skipped: dict[int, list[Skipped]] = {}
            results = self.engine.run(self.computer, self.source, todo, report)
            self.unit_store.sums.seconds_between_saves = self.engine.seconds_between_saves
            with closing(results), closing(self.unit_store):
                for result in results:
                    self.unit_store.record(result)
                    skipped[result.unit.number] = [
                        Skipped(name, reason) for name, _, reason in result.skipped
                    ]
            self.skipped = [image for number in sorted(skipped) for image in skipped[number]]
            seconds = time.perf_counter() - start
            waiting = self.unit_store.waiting()
            note = self.unit_store.note()
            summary, analysis, files = (None, None, {}) if waiting else self._finish(units)
            if note:
                warnings.warn(note, stacklevel=3)
            return Audit(summary, analysis, tuple(self.skipped), total, seconds, waiting, files)

    def _finish(self, units: list[Unit]) -> tuple[dict[str, Any], Analysis | None, dict[str, Path]]:
        """Write the tables of all units; return their summary, the analysis, and the files."""
        classes = self.source.data.names

        def parts() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for unit in units:
                yield unit.number, self.unit_store.arrays(unit)

        counts = write_tables(self.out, parts(), self.source.names, classes)
        counts |= self.source.data.about
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
                self.computer.dry_run(1)
            size = requested or self.engine.call(self.computer, UnitComputer.choose_batch_size)
            stored = self.store.store_row_if_absent("batch", {"size": size})
        if requested not in (None, stored["size"]):
            raise SemattnError(
                f"batch_size: expected {stored['size']}, the value of the first run in this "
                f"folder, got {requested} — omit it or choose another folder"
            )
        return int(stored["size"])

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
