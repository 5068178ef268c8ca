"""`audit`: every image of a data set, by one process or many."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from ..data.sources import Source
from ..errors import SemattnError
from ..images import Preprocessing
from ..utils.registry import choices
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
    progress: Callable[[int, int | None], None] | None = None,
) -> Audit:
    """Explain and analyse every image of a source; go on where an earlier call was stopped.

    Several processes, on one machine or on many that share a disk, may do it together, each with
    its place in `process`: they need not know of each other, and the last one writes the tables.
    Those are the same, byte for byte, as one process writes, if all compute alike (the same kind
    of device, and as many threads a process).

    Parameters
    ----------
    model : a vision transformer, on its device
    source : `open_source` lists one
    out : a folder: ``explain.parquet`` (a row an image), ``skipped.parquet``, ``maps/`` (an .npz a
        unit, whose `maps` (n, h, w) are of sum 1), ``audit.json``; ``.audit/`` is what is done
    jobs : "explain", "analyze", or both
    method, density, detector, preprocessing, seed : as for `semattn.explain.Explainer`
    batch_size : images in the model at once; None chooses from the free memory
    workers : processes that read and find keypoints; None leaves the model its processors
    process : the place of this process, from 0, and how many there are
    progress : called with the number of images done by this process, and how many it has to do

    Raises
    ------
    SemattnError
        For another audit's folder; of the model, before the first image; and, after the tables
        are written, for a source of which no image can be read.
    """
    check_jobs(jobs)
    check_parquet()
    options = {"method": method, "density": density, "detector": detector, "seed": seed}
    work = Work(model, source, Path(out), tuple(jobs), options, preprocessing)
    result = work.run(batch_size, workers, process, progress)
    if result.summary is not None and result.summary["skipped"] >= len(source):
        check_read(result.files["skipped"], len(source))
    return result


def check_read(table: Path, images: int) -> None:
    """Raise SemattnError where the table of what is skipped has every image as one not read."""
    import pyarrow.parquet as parquet

    rows = parquet.read_table(table, columns=["job", "reason"]).to_pylist()
    reasons = [row["reason"].partition(" — ")[0] for row in rows if row["job"] == "read"]
    if len(reasons) < images:
        return
    counts = Counter(re.sub("'.*'", "a file", reason) for reason in reasons)
    summary = "; ".join(f"{count}: {reason}" for reason, count in counts.most_common(SHOWN))
    raise SemattnError(
        f"source: expected an image that can be read, got none of {images} ({summary}) — {table} "
        "lists them"
    )


def check_jobs(jobs: Sequence[str], known: Sequence[str] = JOBS) -> None:
    """Raise ValueError unless there is a job, and each is one of those known."""
    for job in jobs:
        if job not in known:
            raise ValueError(choices("job", job, known))
    if not jobs:
        raise ValueError(f"jobs: expected one at least, got none — choose from {', '.join(known)}")
