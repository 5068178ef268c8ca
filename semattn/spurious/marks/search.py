"""`find_marks`: search of a data set for recurring marks, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.labelled import LabelledImages
from ...data.loading import Skipped
from ...data.sources import read_dataset
from ...keypoints.local_features import fine_sift, local_features
from ...utils.input_identity import input_names
from ...utils.notebook import NotebookView
from ...utils.processes import Progress, exits_on_termination, ignore_progress
from ...utils.provenance import versions
from ...utils.ray_session import TaskMap, check_engine, task_map
from ...utils.run_store import RunStore
from ..batch_store import strided
from .keypoint_store import KeypointStore
from .mark import Mark, describe_mark
from .recurring import MAX_IMAGES, MarkSearchResult, find_recurring_marks

BATCH = 32  # images in each stored file


@dataclass(frozen=True, eq=False, repr=False)
class MarkDiscovery(NotebookView):
    """Recurring marks of a data set, the significant ones first, by increasing p-value.

    Parameters
    ----------
    marks : marks in at least two images
    images : number of images that were compared
    classes : number of images of each class, by name
    n_tests : number of tests that p-values are corrected for
    alpha : significance level, after correction
    skipped, notes : images that could not be read, and notes on the search
    manifest : data, parameters, versions
    """

    marks: tuple[Mark, ...]
    images: int
    classes: dict[str, int]
    n_tests: int
    alpha: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def significant(self) -> tuple[Mark, ...]:
        """Marks that one class shows more often than the others."""
        return tuple(mark for mark in self.marks if mark.significant)

    def summary(self) -> dict[str, Any]:
        """Return everything except pictures and templates, ready for JSON."""
        return {
            "marks": [mark.summary() for mark in self.marks], "images": self.images,
            "classes": self.classes, "tests": self.n_tests, "alpha": self.alpha,
            "skipped": [image._asdict() for image in self.skipped], "notes": list(self.notes),
            "manifest": self.manifest,
        }  # fmt: skip


def find_marks(
    dataset: Any,
    *,
    class_names: Sequence[str] | None = None,
    alpha: float = 0.05,
    max_marks: int = 20,
    cache_dir: str | Path | None = None,
    engine: str = "local",
    address: str | None = None,
    progress: Progress | None = None,
) -> MarkDiscovery:
    """Find watermarks, tags, logos and stamps that one class shows more often than the others.

    The same small picture in several images, at any place, size and rotation, is found by matching
    SIFT descriptors and verifying their geometry. No model is used, so a data set can be checked
    before training. `discover_spurious` also tests which marks a model uses.

    Parameters
    ----------
    dataset : a folder with one folder per class, or of pictures only, or any other source of
        `semattn.data.open_source`, local or remote; a map-style data set of pairs (image, label);
        or a sequence of images. Without classes, marks are only counted
    class_names : names of the classes of numeric labels
    alpha : significance level of the whole search
    max_marks : greatest number of marks in the result
    cache_dir : directory that stores keypoints, so that the search can resume after an
        interruption. None for a temporary directory
    engine : "local", or "ray" to read, match and locate by tasks of a Ray cluster, whose machines
        read the images by the same paths
    address : with Ray, address of the cluster, see `semattn.utils.ray_session.ray_session`
    progress : called with the stage, the number of steps done, and the total

    Raises
    ------
    SemattnError
        For no images, or none that can be read.

    Notes
    -----
    At most 4,000 images are compared, evenly spaced. Groups of nearly the same photographs are left
    out and counted. A repeated object (one product, one cut-out) is a mark too: you decide.
    Source: Weyand, Tsai and Leibe, Fixing WTFs (WACV 2015), for matches between unrelated images.
    """
    check_options(alpha, max_marks)
    check_engine(engine, address)
    data = _read_data(dataset, class_names)
    manifest = {
        "data": {"images": len(data), "labels": data.note or "given"},
        "parameters": {"alpha": alpha, "max_marks": max_marks}, "versions": versions(),
    }  # fmt: skip
    run_store = RunStore(
        None if cache_dir is None else Path(cache_dir), {"versions": versions()}, "search"
    )
    sources = data.sources if data.labels else [None] * len(data)
    report = progress or ignore_progress
    store = KeypointStore(fine_sift, data, run_store, input_names(sources), BATCH, report)
    try:
        with (
            exits_on_termination() if cache_dir is None else nullcontext(),
            run_store.running(),
            task_map(engine, address) as run_tasks,
        ):
            if engine != "local":
                store.extract_by(run_tasks)
            return _search(store, alpha, max_marks, manifest, run_tasks)
    finally:
        if run_store.temporary:
            run_store.clear()


def check_options(alpha: float, max_marks: int) -> None:
    """Raise ValueError for a level or a number of marks that a search refuses."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a value between 0 and 1, got {alpha:g} — .05 is usual")
    if max_marks < 1:
        raise ValueError(f"max_marks: expected at least 1, got {max_marks} — 20 is usual")


def _read_data(dataset: Any, class_names: Sequence[str] | None) -> LabelledImages:
    """Return the images with labels; the classes of a folder or archive are its own."""
    names = None if class_names is None else tuple(class_names)
    return read_dataset(dataset, names or None, len(names or ()))


def _search(
    store: KeypointStore, alpha: float, max_marks: int, manifest: dict[str, Any],
    run_tasks: TaskMap,
) -> MarkDiscovery:  # fmt: skip
    """Return the marks of the images of a store."""
    index = store.index
    store.drop_beyond()
    rows = strided(np.arange(len(store)), MAX_IMAGES)
    labels = index.labels[rows]
    keypoints = store.keypoints(rows)
    sizes = np.array([of_image.image_size for of_image in keypoints])
    features = local_features(keypoints)
    result = find_recurring_marks(features, labels, sizes, alpha, store.progress, run_tasks)
    counts = Counter(labels.tolist())
    marks = [
        describe_mark(
            mark, mark.shows(len(labels)), labels, store.data.name, result.n_tests, alpha,
            lambda row: (store.name(int(rows[row])), store.pixels(int(rows[row]))),
        )
        for mark in result.marks[:max_marks]
    ]  # fmt: skip
    return MarkDiscovery(
        tuple(marks), len(rows), {_class_name(store.data, c): n for c, n in sorted(counts.items())},
        result.n_tests, alpha, tuple(index.skipped),
        tuple(_notes(store, result, len(rows), len(marks))),
        manifest,
    )  # fmt: skip


def _class_name(data: LabelledImages, target: int) -> str:
    return data.name(target) if target >= 0 else ""


def _notes(
    store: KeypointStore, result: MarkSearchResult, compared: int, n_marks: int
) -> list[str]:
    notes = [note for note in (store.data.strays,) if note]
    if compared < len(store):
        notes.append(f"{compared} of {len(store)} images were compared, evenly spaced")
    if n_marks < len(result.marks):
        notes.append(f"{n_marks} of {len(result.marks)} marks are listed, the most significant")
    if result.n_photographs:
        groups = "group" if result.n_photographs == 1 else "groups"
        notes.append(
            f"left out: {result.n_photographs} {groups} of nearly the same photographs or scenes"
        )
    if len(set(store.index.labels.tolist())) < 2:
        notes.append("the images have no classes to compare: marks are only counted")
    return notes
