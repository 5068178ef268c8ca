"""`audit`: every image of a data set, by one process or many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from ..images import Preprocessing
from ..registry import choices
from .sources import Source
from .tables import check_parquet
from .work import JOBS, Audit, Work


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
        For another audit's folder; of the model, before the first image.
    """
    check_jobs(jobs)
    check_parquet()
    options = {"method": method, "density": density, "detector": detector, "seed": seed}
    work = Work(model, source, Path(out), tuple(jobs), options, preprocessing)
    return work.run(batch_size, workers, process, progress)


def check_jobs(jobs: Sequence[str], known: Sequence[str] = JOBS) -> None:
    """Raise ValueError unless there is a job, and each is one of those known."""
    for job in jobs:
        if job not in known:
            raise ValueError(choices("job", job, known))
    if not jobs:
        raise ValueError(f"jobs: expected one at least, got none — choose from {', '.join(known)}")
