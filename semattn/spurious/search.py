"""`discover_spurious`: search of a model and a data set for spurious cues, resumable."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..attention.model_call import move_to_model
from ..attention.output_meaning import predict
from ..attention.sites import check_model
from ..data.labelled import read_labelled
from ..errors import SemattnError, UnsupportedModelError
from ..images import Preprocessing
from ..keypoints import detectors
from ..utils.class_names import class_names, resolve_class
from ..utils.input_identity import input_names
from ..utils.processes import exits_on_termination
from ..utils.progress import Progress, ignore_progress
from ..utils.provenance import about_model, versions
from ..utils.run_store import RunStore
from .discovery import Discovery
from .feature_extractor import Looker
from .feature_store import Views
from .looked import Looked
from .study import CLASS, Study

LOOKING, DISCOVERING = "look", "discover"  # names of the two tasks in the store


def discover_spurious(
    model: nn.Module,
    dataset: Any,
    *,
    classes: Sequence[int | str] | None = None,
    names: Sequence[str] | None = None,
    alpha: float = 0.05,
    min_relative_risk: float = 3.0,
    max_candidates: int = 2,
    batch_size: int = 16,
    detector: Any = "sift",
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Discovery:
    """Find spurious cues: patches that a model uses for a class and that are not its object.

    Candidates are kinds of off-object patches that a class shows more often than other classes: a
    probe on the model's keys, colours and SIFT descriptors finds them, and clustering separates the
    kinds. A cue is confirmed if it is more frequent in the class (on images that the probe was not
    fitted on), if its removal lowers the score of the class, and if its transplant into images of
    other classes raises it.

    Parameters
    ----------
    model : a classifier that `semattn.record` can read, with keys (no windowed softmax of its own)
    dataset : a folder with one folder per class, or of pictures only; a map-style data set of pairs
        (image, label); or a sequence of images. Predicted classes replace missing labels
    classes : classes to search, by number or name; None for all
    names : class names of the model; None for ``model.classes``
    alpha : significance level of the whole search
    min_relative_risk : least relative risk of the cue, class against others, at 95 % confidence.
        Surroundings and missed parts of an object often reach 2
    max_candidates : greatest number of candidates tested per class
    batch_size : images per forward pass
    detector, preprocessing, seed : as in `semattn.explain.Explainer`
    folder : directory that stores the search, so that it can resume after an interruption and be
        read later. None for a temporary directory
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
        model, dataset, classes=classes, names=names, alpha=alpha,
        min_relative_risk=min_relative_risk, max_candidates=max_candidates,
        batch_size=batch_size, detector=detector, preprocessing=preprocessing, seed=seed,
        folder=folder, progress=progress,
    )  # fmt: skip
    with exits_on_termination() if folder is None else nullcontext(), search:
        return search.discover()


class Search:
    """Search that several processes may share: each extracts its part, the last one searches.

    Parameters are those of `discover_spurious`, which calls `discover` only. Sharing needs a folder
    that all processes can access.

    Examples
    --------
    In process 3 of 8::

        search = Search(model, "photographs", folder="shared/search")
        if search.look((3, 8)):
            discovery = search.discover()
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        *,
        classes: Sequence[int | str] | None = None,
        names: Sequence[str] | None = None,
        alpha: float = 0.05,
        min_relative_risk: float = 3.0,
        max_candidates: int = 2,
        batch_size: int = 16,
        detector: Any = "sift",
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_options(alpha, min_relative_risk)
        for name, value, least in (
            ("max_candidates", max_candidates, 1), ("batch_size", batch_size, 1), ("seed", seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        detectors.ensure(detector)
        check_model(model, compiled=True)
        names = tuple(names if names is not None else class_names(model) or ())
        looker = Looker(model, preprocessing, detector, seed)
        data = read_labelled(dataset, names, _count_outputs(looker, dataset))
        options = {
            "alpha": alpha, "min_relative_risk": min_relative_risk,
            "max_candidates": max_candidates, "batch_size": batch_size, "seed": seed,
            "classes": None if classes is None else [str(name) for name in classes],
            "detector": getattr(detector, "__name__", str(detector)),
            "preprocessing": None if preprocessing is None else str(preprocessing),
        }  # fmt: skip
        self.manifest = about_model(model) | {
            "data": {"images": len(data), "labels": data.note or "given"},
            "parameters": options, "versions": versions(),
        }  # fmt: skip
        # Each batch stores the identities of its own images.
        run = {name: value for name, value in self.manifest.items() if name != "data"}
        self.classes, self.alpha = classes, alpha
        self.min_relative_risk, self.max_candidates = min_relative_risk, max_candidates
        self.store = RunStore(None if folder is None else Path(folder), run, "search")
        self._warned, self._was_compared = False, bool(self.store.numbered(CLASS))
        sources = (
            data.sources if data.labels else [None] * len(data)
        )  # pairs are read one at a time
        self.views = Views(
            looker, data, self.store, input_names(sources), batch_size, seed,
            progress or ignore_progress,
        )  # fmt: skip

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the stored features, unless a folder was given for them."""
        if self.store.temporary:
            self.store.clear()

    def look(self, process: tuple[int, int] = (0, 1)) -> bool:
        """Extract the features of this process's part; return True if this process is to search.

        That is the process after which nothing is missing. If nothing was missing before, as after
        an interruption, it is the first process.

        Raises
        ------
        LockedError
            While another process extracts this part, or processes of another count run.
        """
        views = self.views
        with self.store.running(process, LOOKING):
            extracted = views.look(process)
            is_last = not views.missing() and (extracted > 0 or process[0] == 0)
        self._warn(process[1] == 1)
        return is_last

    def discover(self) -> Discovery:
        """Find and test candidates in all images; extract missing features first.

        Raises
        ------
        LockedError
            While another process does the same.
        """
        views = self.views
        with self.store.running(task=DISCOVERING):
            with self.store.running(task=LOOKING) if views.missing() else nullcontext():
                images = Looked(views)
            views.drop_beyond()
            self._warn()
            study = Study(
                images,
                self.alpha,
                self.min_relative_risk,
                self.max_candidates,
                views.seed,
                views.progress,
            )
            return study.search(_resolve_classes(self.classes, images), self.manifest)

    def _warn(self, alone: bool = True) -> None:
        """Warn once if stored results could not be used."""
        views = self.views
        note = views.recomputed.note(views.names, counts_new=self._was_compared, alone=alone)
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


def _count_outputs(looker: Looker, dataset: Any) -> int:
    """Return the number of outputs of the model."""
    source = looker.preprocessing_source
    try:
        preprocessing = source if isinstance(source, Preprocessing) else source()
        channels, size = len(preprocessing.mean), preprocessing.size
    except SemattnError:
        first = dataset[0]
        first = first[0] if isinstance(first, (tuple, list)) else first
        channels, *size = first.shape[-3:]
    with torch.no_grad():
        blank = torch.zeros(1, channels, *size, device="cpu")
        blank = move_to_model(looker.model, blank, prepared=True)
        output, meaning = predict(looker.model, blank)
    if meaning.refusal:
        raise UnsupportedModelError(meaning.refusal)
    if output.ndim != 2 or output.shape[1] < 2 or not meaning.has_answers:
        raise SemattnError(
            f"model: expected a classifier with outputs (B, K), K > 1, got {tuple(output.shape)} "
            f"({meaning.kind.value})"
        )
    return int(output.shape[1])


def _resolve_classes(classes: Sequence[int | str] | None, images: Looked) -> list[int]:
    """Return the numbers of the classes to search."""
    data, present = images.data, sorted(set(images.labels.tolist()))
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
