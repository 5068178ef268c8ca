"""One process's part in an audit: unit by unit, what is done kept on the disk."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..attention.model_inputs import model_device
from ..attention.sites import refuse
from ..data.loading import Loaded, Reader
from ..data.prefetching import default_workers, stream
from ..data.skipped import Skipped
from ..data.sources import Source
from ..density import densities
from ..errors import SemattnError
from ..explain import Explanation, explainers
from ..images import Preprocessing
from ..interrelation import Analysis
from ..interrelation.study import Study
from ..keypoints import detectors
from ..utils.atomic_files import whole, write_text
from ..utils.provenance import about_model, versions
from ..utils.run_store import Shelf
from . import batch_size as memory
from .bisect import attempt
from .explained import joined, rows_of
from .kept import MAPS, SUMMARY, KeptUnits
from .tables import SKIPPED, TABLE, write_tables
from .units import Unit, units_of

JOBS = ("explain", "analyze")
KEPT = ".audit"  # folder of what is done


@dataclass(frozen=True)
class Audit:
    """What an audit came to.

    Parameters
    ----------
    summary : counts and means of the tables, ready for JSON; None where other processes have
        units to do yet
    analysis : of all images; None where it was not asked for, or is not whole yet
    skipped : what this process left out, and why
    images : how many this process did, and in how many seconds
    seconds : of this process
    waiting : units that nobody has done yet
    files : what was written, by name
    """

    summary: dict[str, Any] | None
    analysis: Analysis | None
    skipped: tuple[Skipped, ...]
    images: int
    seconds: float
    waiting: int
    files: dict[str, Path]


class Work:
    """One process's part in an audit.

    Parameters
    ----------
    model, source, out, jobs, preprocessing : as of `audit`
    options : method, density, detector and seed
    """

    def __init__(
        self, model: nn.Module, source: Source, out: Path, jobs: tuple[str, ...],
        options: dict[str, Any], preprocessing: Preprocessing | None,
    ) -> None:  # fmt: skip
        self.model = refuse(model, compiled=True)
        self.source, self.out, self.jobs, self.options = source, out, jobs, options
        self.wanted = preprocessing or Preprocessing.of(model)
        chosen = {name: options[name] for name in ("density", "detector", "seed")}
        self.explainer = explainers.ensure(options["method"])(**chosen, preprocessing=self.wanted)
        detectors.ensure(options["detector"])
        needs = getattr(densities.ensure(options["density"]), "needs", ("keypoints",))
        self.reader = Reader(self.wanted, options["detector"], needs, source.names)
        self.device = model_device(model)
        self.about = about_model(model)
        self.manifest = self.about | {
            "source": {"images": len(source)},
            "jobs": list(jobs),
            "parameters": {**options, "preprocessing": str(self.wanted)},
            "method": self.explainer.parameters(),
            "device": self.device.type,
            "versions": versions(),
        }
        # Each unit has the identities of its images.
        run = {name: value for name, value in self.manifest.items() if name != "source"}
        self.shelf = Shelf(out / KEPT, run, "audit")
        self.skipped: list[Skipped] = []

    def run(
        self,
        batch_size: int | None,
        workers: int | None,
        process: tuple[int, int],
        progress: Callable[[int, int | None], None] | None,
    ) -> Audit:
        """Do what is left of this process's units; write the tables where that was the last."""
        with self.shelf.running(process, also=(self.out, self.out / MAPS)):
            units = units_of(len(self.source), self._size(batch_size))
            self.study = self._study(units[0].size)
            if "analyze" in self.jobs:  # of noise: the model may fail on the first image of a unit
                self.study.find_grid(self._noise(1, self.study))
            (self.out / MAPS).mkdir(parents=True, exist_ok=True)
            self.kept = KeptUnits(self.shelf, self.source, self.out, units, process)
            todo = self.kept.todo()
            total, done, start = sum(one.stop - one.first for one in todo), 0, time.perf_counter()
            every = [batch for unit in todo for batch in unit.batches]
            chosen = default_workers(self.model) if workers is None else workers
            data = self.source.data
            flow = stream(self.reader, data.sources, every, chosen, data.labels)

            def coming(unit: Unit) -> Iterator[Loaded]:
                nonlocal done
                for one in islice(flow, len(unit.batches)):
                    yield one
                    done += one.given
                    if progress is not None:
                        progress(done, total)

            with closing(flow):
                for unit in todo:
                    self._do(unit, coming(unit))
            seconds = time.perf_counter() - start
            waiting = self.kept.waiting()
            note = self.kept.note()
            told, found, files = (None, None, {}) if waiting else self._finish(units)
            if note:
                warnings.warn(note, stacklevel=3)
            return Audit(told, found, tuple(self.skipped), total, seconds, waiting, files)

    def _do(self, unit: Unit, batches: Iterator[Loaded]) -> None:
        """Do one unit: keep its maps, then its rows, then its sums, by which it is done."""
        study = self.study.anew()
        analyse = "analyze" in self.jobs
        parts: list[dict[str, np.ndarray]] = []
        skipped: list[tuple[str, str, str]] = []
        identities: list[str] = []
        for loaded in study.pooled(batches) if analyse else batches:
            identities += loaded.identities
            skipped += [(one.name, "read", one.reason) for one in loaded.skipped]
            study.skipped += loaded.skipped
            if loaded.images is None:
                continue
            bare = loaded.part(slice(None))
            if "explain" in self.jobs:
                made, failed = attempt(self._explain, bare)
                parts += made
                skipped += [(one.name, "explain", one.reason) for one in failed]
            if analyse:
                before = len(study.skipped)
                _, failed = attempt(study.take, bare)
                study.skipped += failed
                skipped += [(one.name, "analyze", one.reason) for one in study.skipped[before:]]
        analysed = analyse and study.tally is not None and study.tally.images > 0
        rows = joined(parts)
        maps = rows.pop("maps", None)
        if maps is not None:
            with whole(self.out / MAPS / f"{unit.name}.npz") as stream:
                np.savez_compressed(stream, number=rows["number"], maps=maps)
        columns = [list(one) for one in zip(*skipped, strict=True)] or [[], [], []]
        rows |= {
            f"skipped_{name}": np.array(column, dtype=str)
            for name, column in zip(("name", "job", "reason"), columns, strict=True)
        }
        digest = self.kept.keep(unit, rows, identities, analysed)
        if analysed:
            self.kept.sums.add(unit.number, digest, study.result())
        self.skipped += [Skipped(name, reason) for name, _, reason in skipped]

    def _explain(self, loaded: Loaded) -> dict[str, np.ndarray]:
        labels = [self.source.data.labels[number] for number in loaded.numbers]
        return rows_of(self._explanation(loaded), loaded.numbers, labels)

    def _explanation(self, loaded: Loaded) -> Explanation:
        made: Explanation = self.explainer.explain(
            self.model, loaded.images, keypoints=loaded.keypoints, manifest=self.manifest
        )
        return made

    def _finish(self, units: list[Unit]) -> tuple[dict[str, Any], Analysis | None, dict[str, Path]]:
        """The tables of all units: their summary, the analysis, and the files."""
        classes = self.source.data.names

        def parts() -> Iterator[tuple[int, dict[str, np.ndarray]]]:
            for unit in units:
                yield unit.number, self.kept.arrays(unit)

        told = write_tables(self.out, parts(), self.source.names, classes)
        told["images"] = len(self.source)
        told["labels"] = self.source.data.note or "given"
        told["broken"] = [list(one) for one in self.source.broken]
        found = self.kept.sums.merged(self.source.names) if "analyze" in self.jobs else None
        self.manifest["source"] = {"images": len(self.source), "sha256": self.kept.complete()}
        summary = {"summary": told, "manifest": self.manifest}
        text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.out / SUMMARY, text + "\n")
        names = {"table": TABLE, "skipped": SKIPPED, "summary": SUMMARY}
        files = {name: self.out / file for name, file in names.items()}
        return told, found, files

    def _size(self, asked: int | None) -> int:
        """Images in the model at once: as the first process of the audit chose."""
        if asked is not None and asked < 1:
            raise ValueError(f"batch_size: expected 1 at least, got {asked}")
        known = self.shelf.row("batch")
        if known is None:
            # An image runs either way: what the model cannot do is found out now, and only once.
            if asked is not None:
                self._blank(1)
            size = asked or memory.batch_size(self._blank, self.device)
            known = self.shelf.claim_row("batch", {"size": size})
        if asked not in (None, known["size"]):
            raise SemattnError(
                f"batch_size: expected {known['size']}, with which this audit began, got {asked} — "
                "leave it out, or choose another folder"
            )
        return int(known["size"])

    def _blank(self, size: int) -> None:
        """All that is done with a batch, for images of noise."""
        study = self._study(size)
        loaded = self._noise(size, study)
        if "explain" in self.jobs:
            self._explanation(loaded)
        if "analyze" in self.jobs:
            study.take(loaded)

    def _noise(self, size: int, study: Study) -> Loaded:
        rng = np.random.default_rng(0)
        noise = [rng.integers(0, 256, (*self.wanted.size, 3), dtype=np.uint8) for _ in range(size)]
        return study.reader.load(0, noise, strict=True)

    def _study(self, size: int) -> Study:
        return Study(self.model, {
            "density": self.options["density"], "detector": self.options["detector"],
            "layers": None, "draws": 3, "pool": 32, "replicates": 200, "batch_size": size,
            "seed": self.options["seed"], "preprocessing": self.wanted,
        }, self.about)  # fmt: skip
