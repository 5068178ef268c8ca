"""`discover_spurious`: search of a model and a data set for spurious cues, resumable."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..attention.sites import check_model
from ..data.sources import read_dataset
from ..errors import SemattnError
from ..images import Preprocessing
from ..keypoints import detectors
from ..utils.class_names import class_names as names_of_model, resolve_class
from ..utils.input_identity import input_names
from ..utils.processes import Progress, exits_on_termination, ignore_progress
from ..utils.provenance import about_model, versions
from ..utils.ray_session import TaskMap, check_engine, task_map
from ..utils.run_store import RunStore
from .candidates import FOLDS
from .confirmation import (
    AnyCandidate,
    content_number,
    context_of,
    describe,
    intervene,
    is_on_object,
    without_duplicates,
)
from .cue import SpuriousCue
from .cue_detector import (
    MAX_CLASS_IMAGES,
    MAX_REFERENCE,
    CandidateCue,
    candidates_from_arrays,
    class_images,
    compare_class,
    reference_images,
)
from .discovery import Discovery, Rank
from .feature_extractor import FeatureExtractor
from .feature_store import FeatureStore, load_patches
from .interventions import InterventionContext, InterventionResult
from .marks.candidates import (
    MarkCandidate,
    candidates_from_arrays as marks_from_arrays,
    candidates_to_arrays as marks_to_arrays,
    find_mark_candidates,
)
from .marks.recurring import MAX_IMAGES
from .marks.search import same_scenes_note
from .significance import MIN_OTHERS, alpha_weights, least_p_of_effect, means_of_others

EXTRACTING, DISCOVERING = "extract", "discover"  # names of the two tasks in the run store
CLASS, INTERVENTION = "class-", "intervention-"  # name prefixes of results of a class, a candidate
MARKS = "marks-"  # name prefix of the stored marks
IMAGES = "images"  # name of the digest of all images in those arrays
MIN_IMAGES = 2 * FOLDS  # images of a class that a search needs
PARTLY_COMPARED = (
    f"the images of a cue are listed among those that were compared: at most {MAX_CLASS_IMAGES} of "
    f"its class and {MAX_REFERENCE:,} others, or {MAX_IMAGES:,} images for a mark"
)


def discover_spurious(
    model: nn.Module,
    dataset: Any,
    *,
    classes: Sequence[int | str] | None = None,
    class_names: Sequence[str] | None = None,
    alpha: float = 0.05,
    min_relative_risk: float = 3.0,
    max_candidates: int = 2,
    batch_size: int = 16,
    detector: Any = "sift",
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    engine: str = "local",
    address: str | None = None,
    progress: Progress | None = None,
) -> Discovery:
    """Find spurious cues: patches that a model uses for a class and that are not its object.

    Candidates are kinds of off-object patches that a class shows more often than other classes (a
    probe on the model's keys, colours and SIFT descriptors finds them, and clustering separates the
    kinds), and recurring marks, which `find_marks` describes; their cues are `MarkCue`. A cue is
    confirmed if it is more frequent in the class, if its removal lowers the score of the class, and
    if its transplant into images of other classes raises it more than the scores of other classes.

    Parameters
    ----------
    model : a classifier that `semattn.record` can read, with keys (no windowed softmax of its own)
    dataset : a folder with one folder per class, or of pictures only; a map-style data set of pairs
        (image, label); or a sequence of images. Predicted classes replace missing labels
    classes : classes to search, by number or name; None for all
    class_names : class names of the model; None for ``model.classes``
    alpha : significance level of the whole search
    min_relative_risk : least relative risk of the cue, class against others, at 95 % confidence.
        Surroundings and missed parts of an object often reach 2
    max_candidates : greatest number of candidates tested per class
    batch_size : images per forward pass
    detector, preprocessing, seed : as in `semattn.explain.Explainer`
    cache_dir : directory that stores the search, so that it can resume after an interruption and be
        read later. None for a temporary directory
    engine : "local", or "ray" to compare the classes, and to search for marks, by tasks of a Ray
        cluster, whose machines read `cache_dir` by the same path
    address : with Ray, address of the cluster, see `semattn.utils.ray_session.ray_session`
    progress : called with the stage, the number of steps done, and the total

    Raises
    ------
    SemattnError
        For no images, a single class, or no class with enough images; the message gives the number.
    UnsupportedModelError
        For a model that cannot be read, or whose layers keep no keys.

    Notes
    -----
    The object is the salient region: patches with dense keypoints that the model attends to,
    refined by the affinity of their keys. A region that is salient at a fixed place of one class
    only is a mark, not an object. Cues that are part of the object (the fur of a wolf) are not
    searched for. Memory does not depend on the number of images: features are stored on disk, and
    a class is compared with at most 1,300 images of other classes.
    """
    search = Search(
        model, dataset, classes=classes, class_names=class_names, alpha=alpha,
        min_relative_risk=min_relative_risk, max_candidates=max_candidates,
        batch_size=batch_size, detector=detector, preprocessing=preprocessing, seed=seed,
        cache_dir=cache_dir, engine=engine, address=address, progress=progress,
    )  # fmt: skip
    with exits_on_termination() if cache_dir is None else nullcontext(), search:
        return search.discover()


class Search:
    """Search that several processes may share: each extracts its part, the last one searches.

    Parameters are those of `discover_spurious`, which calls `discover` only. Sharing needs a
    `cache_dir` that all processes can access.

    Examples
    --------
    In process 3 of 8::

        search = Search(model, "photographs", cache_dir="shared/search")
        if search.extract((3, 8)):
            discovery = search.discover()
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        *,
        classes: Sequence[int | str] | None = None,
        class_names: Sequence[str] | None = None,
        alpha: float = 0.05,
        min_relative_risk: float = 3.0,
        max_candidates: int = 2,
        batch_size: int = 16,
        detector: Any = "sift",
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        cache_dir: str | Path | None = None,
        engine: str = "local",
        address: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_options(alpha, min_relative_risk)
        check_engine(engine, address)
        for name, value, least in (
            ("max_candidates", max_candidates, 1), ("batch_size", batch_size, 1), ("seed", seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        detectors.resolve(detector)
        check_model(model, compiled=True)
        names = tuple(class_names if class_names is not None else names_of_model(model) or ())
        extractor = FeatureExtractor(model, preprocessing, detector, seed)
        data = read_dataset(dataset, names, extractor.count_outputs(dataset))
        options = {
            "alpha": alpha, "min_relative_risk": min_relative_risk,
            "max_candidates": max_candidates, "batch_size": batch_size, "seed": seed,
            "classes": None if classes is None else [str(name) for name in classes],
            "detector": getattr(detector, "__name__", str(detector)),
            "preprocessing": None if preprocessing is None else str(preprocessing),
        }  # fmt: skip
        self.manifest = about_model(model) | {
            "data": data.about,
            "parameters": options, "versions": versions(),
        }  # fmt: skip
        # Each batch stores the identities of its own images.
        run = {name: value for name, value in self.manifest.items() if name != "data"}
        self.classes, self.alpha, self.seed = classes, alpha, seed
        self.min_relative_risk, self.max_candidates = min_relative_risk, max_candidates
        self.engine, self.address = engine, address
        self.progress = progress or ignore_progress
        self.run_store = RunStore(None if cache_dir is None else Path(cache_dir), run, "search")
        self._warned, self._was_compared = False, bool(self.run_store.numbered(CLASS))
        sources = (
            data.sources if data.labels else [None] * len(data)
        )  # a pair is read when it is needed
        self.store = FeatureStore(
            extractor, data, self.run_store, input_names(sources), batch_size, seed, self.progress
        )

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the stored features, unless a directory was given for them."""
        if self.run_store.temporary:
            self.run_store.clear()

    def extract(self, process: tuple[int, int] = (0, 1)) -> bool:
        """Extract the features of this process's part; return True if this process is to search.

        That is the process after which nothing is missing. If nothing was missing before, as after
        an interruption, it is the first process.

        Raises
        ------
        LockedError
            While another process extracts this part, or processes of another count run.
        """
        with self.run_store.running(process, EXTRACTING):
            extracted = self.store.extract(process)
            is_last = not self.store.missing() and (extracted > 0 or process[0] == 0)
        self._warn(process[1] == 1)
        return is_last

    def discover(self) -> Discovery:
        """Find and test candidates in all images; extract missing features first.

        Raises
        ------
        LockedError
            While another process does the same.
        """
        store = self.store
        with self.run_store.running(task=DISCOVERING):
            is_missing = bool(store.missing())
            with self.run_store.running(task=EXTRACTING) if is_missing else nullcontext():
                index = store.index
            store.drop_beyond()
            self._warn()
            targets = _resolve_classes(self.classes, store)
            self._drop_changed()
            with task_map(self.engine, self.address) as run_tasks:
                n_patch_kinds, patch_kinds, left_out = self._find_candidates(targets, run_tasks)
                marks, n_marks, n_photographs = self._find_marks(targets, run_tasks)
            n_judged = n_patch_kinds + n_marks
            candidates: list[AnyCandidate] = [*patch_kinds, *marks]
            frequent = [cue for cue in candidates if cue.p * n_judged < self.alpha]
            is_stronger = [cue.relative_risk >= self.min_relative_risk for cue in frequent]
            strong = [cue for cue, keep in zip(frequent, is_stronger, strict=True) if keep]
            off_object = [candidate for candidate in strong if not is_on_object(store, candidate)]
            tested = without_duplicates(store, sorted(off_object, key=lambda cue: cue.p))
            cues, test_notes = self._test(tested, n_judged)
        notes = [
            f"classes with {reason} are left out: {self._named(classes)}"
            for reason, classes in left_out.items() if classes
        ] + test_notes  # fmt: skip
        if n_photographs:
            notes.append(f"{same_scenes_note(n_photographs)}; semattn marks lists them")
        if not all(is_stronger):
            notes.insert(
                0,
                f"candidates not tested: {is_stronger.count(False)}, which are more frequent in a "
                f"class, but whose relative risk may be below {self.min_relative_risk:g}",
            )
        if len(off_object) < len(strong):
            notes.insert(
                0,
                f"candidates not tested: {len(strong) - len(off_object)}, which are mostly on the "
                "object or next to it",
            )
        if any(len(candidate.rows) < len(store) for candidate in tested):
            notes.append(PARTLY_COMPARED)
        notes = [note for note in (store.data.note, store.data.strays) if note] + notes
        return Discovery(
            tuple(cues), self._rank(cues, targets), len(store), n_judged,
            None if store.data.note else store.accuracy(), self.alpha,
            tuple(index.skipped), tuple(notes), self.manifest,
            tuple(store.data.name(target) for classes in left_out.values() for target in classes),
        )  # fmt: skip

    def _named(self, classes: Sequence[int]) -> str:
        """Return the names of classes, with their numbers of images."""
        name, labels = self.store.data.name, self.store.index.labels
        return ", ".join(f"{name(target)} ({(labels == target).sum()})" for target in classes)

    # --- candidates of each class

    def _find_candidates(
        self, targets: Sequence[int], run_tasks: TaskMap
    ) -> tuple[int, list[CandidateCue], dict[str, list[int]]]:
        """Return the number of judged candidates, the frequent ones, and the classes left out.

        These are lists by the reason why their patches are not searched.
        """
        labels = self.store.index.labels
        counts = {target: int((labels == target).sum()) for target in targets}
        small = [
            target for target, count in counts.items()
            if not MIN_IMAGES <= count <= len(labels) - MIN_IMAGES
        ]  # fmt: skip

        if len(small) == len(targets):
            raise SemattnError(
                f"dataset: expected at least {MIN_IMAGES} images of a class, and as many of "
                f"others, got {self._named(small[:4])} — give more images"
            )
        n_judged, frequent, covered = 0, list[CandidateCue](), []
        compared = self._compare([target for target in targets if target not in small], run_tasks)
        for done, target in enumerate(targets, 1):
            if target not in small:
                count, class_candidates = candidates_from_arrays(target, next(compared))
                n_judged += count
                # `n_judged` only increases: a candidate that fails now would fail at the end.
                frequent = [*frequent, *class_candidates]
                frequent = [cue for cue in frequent if cue.candidate.p * n_judged < self.alpha]
                if not count:
                    covered.append(target)
            self.progress("finding candidates", done, len(targets))
        return n_judged, frequent, {
            f"fewer than {MIN_IMAGES} images": small,
            "too few images that have patches off the object": covered,
        }  # fmt: skip

    def _compare(
        self, targets: Sequence[int], run_tasks: TaskMap
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the candidates of each class as arrays, stored or compared now."""
        names = [f"{CLASS}{target:06d}" for target in targets]
        missing = [
            target for target, name in zip(targets, names, strict=True)
            if not self.run_store.has_arrays(name)
        ]  # fmt: skip
        compared: Iterator[dict[str, np.ndarray]] = iter(())
        if missing:
            load = partial(load_patches, self.run_store.folder)
            shared = (reference_images(self.store), load, self.max_candidates, self.seed)
            images = (class_images(self.store, target) for target in missing)
            compared = run_tasks(compare_class, images, shared)
        for target, name in zip(targets, names, strict=True):
            if target in missing:
                self._save(name, next(compared))
            arrays = self._load(name)
            assert arrays is not None
            yield arrays

    def _find_marks(
        self, targets: Sequence[int], run_tasks: TaskMap
    ) -> tuple[list[MarkCandidate], int, int]:
        """Return the first marks of each class, the number of tests, and of photographs."""
        name = f"{MARKS}{0:06d}"
        arrays = self._load(name)
        if arrays is None:
            candidates = find_mark_candidates(
                self.store, self.alpha, targets, self.max_candidates, run_tasks
            )
            arrays = marks_to_arrays(*candidates)
            self._save(name, arrays)
        return marks_from_arrays(arrays)

    # --- interventions on the candidates

    def _test(
        self, tested: Sequence[AnyCandidate], n_judged: int
    ) -> tuple[list[SpuriousCue], list[str]]:
        """Run the interventions on candidates; return cues, confirmed ones first, and notes."""
        weights = alpha_weights([candidate.p for candidate in tested])
        cues: list[SpuriousCue] = []
        if tested:
            self.progress("testing candidates", 0, len(tested))
        n_unspecific = n_unlocated = n_few = 0
        for done, (candidate, weight) in enumerate(zip(tested, weights, strict=True), 1):
            confirmed = [
                previous
                for previous, cue in zip(tested, cues, strict=False)
                if cue.confirmed and cue.target == candidate.target
            ]
            context = context_of(self.store, candidate, confirmed)
            result = self._result(candidate, confirmed, context)
            others = means_of_others(result.transplant_by_class, candidate.target)
            is_tested = len(result.rows) > 0
            n_unlocated += not is_tested
            n_unspecific += is_tested and len(others) < MIN_OTHERS
            n_few += is_tested and least_p_of_effect(len(result.rows)) > weight * self.alpha
            correction = (n_judged, weight)
            cues.append(
                describe(self.store, candidate, result, context, correction, self.alpha, self.seed)
            )
            self.progress("testing candidates", done, len(tested))
        notes = {
            f"candidates without a test of specificity: {n_unspecific} of {len(tested)}; it needs "
            f"at least {MIN_OTHERS} other classes, of the model and among the images": n_unspecific,
            f"candidates that could not be tested: {n_unlocated} of {len(tested)}; the object is "
            "located in no image with the cue, or in none of other classes": n_unlocated,
            f"candidates in too few images to be confirmed: {n_few} of {len(tested)}; n images of "
            "the class cannot have a p-value of removal below 1 / 2^n": n_few,
        }  # fmt: skip
        cues.sort(key=lambda cue: (not cue.confirmed, -cue.score))
        return cues, [note for note, count in notes.items() if count]

    def _result(
        self, candidate: AnyCandidate, confirmed: Sequence[AnyCandidate],
        context: InterventionContext,
    ) -> InterventionResult:  # fmt: skip
        """Run both interventions on a candidate, or load their results.

        They are stored by the content of the candidates that they depend on: a resumed search may
        have other candidates.
        """
        name = f"{INTERVENTION}{content_number([candidate, *confirmed])}"
        arrays = self._load(name)
        if arrays is None:
            arrays = vars(intervene(self.store, candidate, context, self.seed))
            self._save(name, arrays)
        return InterventionResult(**arrays)

    def _rank(self, cues: Sequence[SpuriousCue], targets: Sequence[int]) -> tuple[Rank, ...]:
        """Return the classes, the most biased first; without a confirmed cue, by their best cue."""

        def best(target: int, confirmed: bool) -> float:
            scores = [
                cue.score for cue in cues if cue.target == target and cue.confirmed >= confirmed
            ]
            return max([0.0, *scores])

        name, labels = self.store.data.name, self.store.index.labels
        ranks = [
            Rank(target, name(target), int((labels == target).sum()), best(target, True))
            for target in targets
        ]
        return tuple(sorted(ranks, key=lambda rank: (-rank.score, -best(rank.target, False))))

    # --- results that depend on all images

    def _load(self, name: str) -> dict[str, np.ndarray] | None:
        """Return stored results, None if there are none."""
        arrays = self.run_store.read_arrays(name)
        return None if arrays is None else {key: arrays[key] for key in arrays if key != IMAGES}

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        self.run_store.store_arrays(name, arrays | {IMAGES: np.array(self.store.index.digest)})

    def _drop_changed(self) -> None:
        """Remove results that were derived from other images."""
        for prefix in (CLASS, INTERVENTION, MARKS):
            for name in self.run_store.numbered(prefix).values():
                state = self.run_store.read_arrays(name, (IMAGES,)) or {}
                if str(state.get(IMAGES)) != self.store.index.digest:
                    self.run_store.remove(name)

    def _warn(self, alone: bool = True) -> None:
        """Warn once if stored results could not be used."""
        store = self.store
        note = store.recomputed.note(store.names, counts_new=self._was_compared, alone=alone)
        if note and not self._warned:
            self._warned = True
            warnings.warn(note, stacklevel=3)


def check_options(alpha: float, min_relative_risk: float) -> None:
    """Raise ValueError for options that `discover_spurious` refuses, before a model is loaded."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a value between 0 and 1, got {alpha:g} — .05 is usual")
    if not min_relative_risk >= 1:
        raise ValueError(
            f"min_relative_risk: expected at least 1, got {min_relative_risk:g} — 3 is usual"
        )


def _resolve_classes(classes: Sequence[int | str] | None, store: FeatureStore) -> list[int]:
    """Return the numbers of the classes to search."""
    data, present = store.data, sorted(set(store.index.labels.tolist()))
    if len(present) < 2:
        raise SemattnError(
            f"dataset: expected images of at least two classes, got {data.name(present[0])} only — "
            "a search compares classes" + (f" ({data.note})" if data.note else "")
        )
    if classes is None:
        return present
    numbers = []
    for name in classes:
        number = resolve_class(name, data.names)
        if number not in present:
            raise SemattnError(
                f"classes: expected classes of the images, got {data.name(number)} — the images "
                "show " + ", ".join(data.name(target) for target in present[:8])
            )
        numbers.append(number)
    return list(dict.fromkeys(numbers))
