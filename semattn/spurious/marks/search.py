"""`find_marks`: search of a data set for recurring marks, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from .mark import Mark, describe_mark, find_marked_images
from .recurring import MAX_IMAGES, MarkSearchResult, find_recurring_marks, least_p

BATCH = 32  # images in each stored file


@dataclass(frozen=True, eq=False, repr=False)
class MarkDiscovery(NotebookView):
    """Recurring marks of a data set, the significant ones first, by increasing p-value.

    Parameters
    ----------
    marks : marks in at least two images, at most as many as the search was asked for
    n_found, n_significant : numbers of all marks that were found, and of the significant ones
    same_scenes : names of the images of each group that shows nearly the same photograph or scene;
        matches that cover a whole scene are not counted as marks
    images : number of images that were compared
    classes : number of images of each class, by name
    n_tests : number of tests that p-values are corrected for
    alpha : significance level, after correction
    skipped, notes : images that could not be read, and notes on the search
    manifest : data, parameters, versions
    """

    marks: tuple[Mark, ...]
    n_found: int
    n_significant: int
    same_scenes: tuple[tuple[str, ...], ...]
    images: int
    classes: dict[str, int]
    n_tests: int
    alpha: float
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    manifest: dict[str, Any]

    @property
    def significant(self) -> tuple[Mark, ...]:
        """Marks in `marks` that one class shows more often than the others."""
        return tuple(mark for mark in self.marks if mark.significant)

    @property
    def not_tested(self) -> str:
        """Reason why no mark can be significant; "" if one can."""
        return untested_reason(self.classes, self.alpha)

    def summary(self) -> dict[str, Any]:
        """Return everything except pictures and templates, ready for JSON."""
        return {
            "marks": [mark.summary() for mark in self.marks], "found": self.n_found,
            "significant": self.n_significant, "not_tested": self.not_tested,
            "same_scenes": [list(names) for names in self.same_scenes], "images": self.images,
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
    At most 4,000 images are compared, evenly spaced. Matches that cover a whole scene, probably
    duplicates, are not marks; their images are listed in `same_scenes`. A repeated object (one
    product, one cut-out) is a mark too: you decide.
    Source: Weyand, Tsai and Leibe, Fixing WTFs (WACV 2015), for matches between unrelated images.
    """
    check_options(alpha, max_marks)
    check_engine(engine, address)
    data = _read_data(dataset, class_names)
    manifest = {
        "data": data.about,
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
    rows = _rows_to_search(index.labels)
    n_eligible = len(rows)
    rows = strided(rows, MAX_IMAGES)
    labels, factors = index.labels[rows], store.factors[rows]
    keypoints = store.keypoints(rows)
    sizes = np.array([of_image.image_size for of_image in keypoints])
    features = local_features(keypoints)
    result = find_recurring_marks(features, labels, sizes, alpha, store.progress, run_tasks)
    counts = Counter(labels.tolist())
    classes = {_class_name(store.data, c): n for c, n in sorted(counts.items())}

    def name(row: int) -> str:
        return store.name(int(rows[row]))

    marks = []
    for mark in result.marks[:max_marks]:
        described = describe_mark(
            mark, mark.shows(len(labels)), labels, store.data.name, result.n_tests, alpha,
            lambda row: (name(row), store.pixels(int(rows[row]))),
        )  # fmt: skip
        images = find_marked_images(
            mark, described, labels, lambda label: _class_name(store.data, label), name, factors
        )
        marks.append(replace(described, marked_images=images))
    is_tested = len(classes) > 1
    n_significant = sum(is_tested and mark.p * result.n_tests < alpha for mark in result.marks)
    same_scenes = tuple(tuple(map(name, images)) for images in result.same_scenes)
    notes = [note for note in (store.data.strays,) if note]
    if n_eligible < len(store):
        notes.append(f"images without a class are left out: {len(store) - n_eligible}")
    notes += _notes(result, n_eligible, len(rows), len(marks))
    if reason := untested_reason(classes, alpha):
        notes.append(reason)
    return MarkDiscovery(
        tuple(marks), n_found=len(result.marks), n_significant=n_significant,
        same_scenes=same_scenes, images=len(rows), classes=classes, n_tests=result.n_tests,
        alpha=alpha, skipped=tuple(index.skipped), notes=tuple(notes), manifest=manifest,
    )  # fmt: skip


def _rows_to_search(labels: np.ndarray) -> np.ndarray:
    """Return the rows with a class, or all rows if no image has one."""
    has_class = labels >= 0
    return np.flatnonzero(has_class | ~has_class.any())


def _class_name(data: LabelledImages, target: int) -> str:
    return data.name(target) if target >= 0 else ""


def untested_reason(classes: Mapping[str, int], alpha: float) -> str:
    """Return why no mark can be significant; "" if one can.

    Parameters
    ----------
    classes : number of images of each class
    alpha : significance level of the whole search

    Examples
    --------
    >>> untested_reason({"cat": 3, "dog": 3}, 0.05)
    'the images are too few (6): no mark can be significant at level 0.05; give more images'
    """
    if len(classes) < 2:
        name = next(iter(classes), "")
        which = f"are all of one class, {name}" if name else "have no classes"
        return f"the images {which}, so no mark was tested; give a folder with one folder per class"
    n_images = sum(classes.values())
    if min(least_p(size, size, n_images) for size in classes.values()) >= alpha:
        return (
            f"the images are too few ({n_images}): no mark can be significant at level {alpha:g}; "
            "give more images"
        )
    return ""


def _notes(result: MarkSearchResult, n_eligible: int, compared: int, n_marks: int) -> list[str]:
    notes = []
    if compared < n_eligible:
        notes.append(f"{compared} of {n_eligible} images were compared, evenly spaced")
    if n_marks < len(result.marks):
        notes.append(f"{n_marks} of {len(result.marks)} marks are listed, the most significant")
    if result.same_scenes:
        listed = '"same_scenes" in marks.json lists their images'
        notes.append(f"{same_scenes_note(len(result.same_scenes))}; {listed}")
    return notes


def same_scenes_note(count: int) -> str:
    """Return the note on groups of images with nearly the same photograph or scene."""
    groups = "1 group of images shows" if count == 1 else f"{count} groups of images show"
    return (
        f"{groups} nearly the same photograph or scene, probably duplicates: these images stay in "
        "the search, but matches that cover a whole scene are not counted as marks"
    )
