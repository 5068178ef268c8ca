"""`audit`: explanation and analysis of every image of a data set, by one or more processes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..data.sources import Source
from ..errors import SemattnError
from ..images import Preprocessing
from ..utils.progress import Progress
from ..utils.registry import unknown_name_message
from .audit_runner import JOBS, Audit, Work
from .tables import check_parquet

SHOWN = 4  # reasons that an error lists


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
    out : a folder: ``explain.parquet`` (one row per image), ``skipped.parquet``, ``maps/`` (one
        .npz per unit, with `maps` (n, h, w) of sum 1), ``audit.json``; ``.audit/`` holds finished
        units
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
    work = Work(model, source, Path(out), tuple(jobs), options, preprocessing)
    result = work.run(batch_size, workers, process, progress)
    if result.summary is not None and result.summary["skipped"] >= len(source):
        check_read(result.files["skipped"], len(source))
    return result


def check_read(table: Path, image_count: int) -> None:
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
