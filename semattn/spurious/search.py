"""`discover_spurious`: from a model and images to cues, batch by batch, kept as it goes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..attention.model_inputs import move_to_model
from ..attention.output_meaning import predict
from ..attention.sites import refuse
from ..class_names import class_names, resolve_class
from ..errors import SemattnError, UnsupportedModelError
from ..images import Preprocessing
from ..input_list import input_names
from ..keypoints import detectors
from ..manifest import about_model, versions
from ..shelf import Shelf
from ..termination import exits_on_termination
from .data import read
from .discovery import Discovery
from .looked import Looked
from .looking import Looker
from .study import CLASS, Study
from .views import Progress, Views

LOOKING, DISCOVERING = "look", "discover"  # the two parts of a search


def discover_spurious(
    model: nn.Module,
    dataset: Any,
    *,
    classes: Sequence[int | str] | None = None,
    names: Sequence[str] | None = None,
    level: float = 0.05,
    lift: float = 3.0,
    most: int = 2,
    batch_size: int = 16,
    detector: Any = "sift",
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> Discovery:
    """Find what the model uses for a class that is not the class's object, and prove it.

    Patches off the object that a class shows more often than others are candidates: a probe on the
    model's keys, colours and SIFT descriptors says which, and clusters tell kinds apart. A cue is
    confirmed where it is more frequent in the class (on images that it was not learned from), where
    the class loses by its removal, and where other classes' images gain by its transplant.

    Parameters
    ----------
    model : a classifier that `semattn.record` reads, with keys (no windowed softmax of its own)
    dataset : a folder with a folder a class, or of pictures alone; a map-style data set of pairs
        (image, label); or a sequence of images. Without labels, the predicted classes stand in
    classes : the ones to search, by number or name; None is all
    names : of the model's classes; None is ``model.classes``
    level : of significance, of the search as a whole
    lift : how many times as often images of the class must show a cue as those of others, at 95 %
        confidence; what lies beside an object, or is missed of it, is often twice as frequent
    most : candidates of a class that are tried
    batch_size : images in the model at once
    detector, preprocessing, seed : as for `semattn.explain.Explainer`
    folder : where the search is kept as it goes, to go on after an interruption; the same search
        is read from there later, until you remove it. None keeps it in a temporary folder
    progress : called with what is being done, how much of it is done, and how much there is

    Raises
    ------
    SemattnError
        For no images, one class alone, no class with enough images; each says how many it needs.
    UnsupportedModelError
        For a model that cannot be read, or whose layers keep no keys.

    Notes
    -----
    The object is what stands out: what dense keypoints and the model's attention agree on, grown
    over patches of like keys; what stands out at a fixed place of one class alone is a mark, not an
    object. A cue that is part of the object (fur for a wolf) is not looked for. Memory does not
    grow with the number of images: features lie on the disk, and a class is held against 1,300
    images of others at most.
    """
    search = Search(
        model, dataset, classes=classes, names=names, level=level, lift=lift, most=most,
        batch_size=batch_size, detector=detector, preprocessing=preprocessing, seed=seed,
        folder=folder, progress=progress,
    )  # fmt: skip
    with exits_on_termination() if folder is None else nullcontext(), search:
        return search.discover()


class Search:
    """A search that several processes may share: each looks at its part, the last one goes on.

    Parameters are those of `discover_spurious`, which is `discover` alone. Sharing takes a folder
    that all of them see.

    Examples
    --------
    Of process 3 of 8::

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
        level: float = 0.05,
        lift: float = 3.0,
        most: int = 2,
        batch_size: int = 16,
        detector: Any = "sift",
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        check(level, lift)
        for name, value, least in (
            ("most", most, 1), ("batch_size", batch_size, 1), ("seed", seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name}: expected {least} at least, got {value}")
        detectors.ensure(detector)
        refuse(model, compiled=True)
        names = tuple(names if names is not None else class_names(model) or ())
        looker = Looker(model, preprocessing, detector, seed)
        data = read(dataset, names, _outputs(looker, dataset))
        options = {
            "level": level, "lift": lift, "most": most, "batch_size": batch_size, "seed": seed,
            "classes": None if classes is None else [str(one) for one in classes],
            "detector": getattr(detector, "__name__", str(detector)),
            "preprocessing": None if preprocessing is None else str(preprocessing),
        }  # fmt: skip
        self.manifest = about_model(model) | {
            "data": {"images": len(data), "labels": data.note or "given"},
            "parameters": options, "versions": versions(),
        }  # fmt: skip
        # Each batch has the identities of its images.
        run = {name: value for name, value in self.manifest.items() if name != "data"}
        self.classes, self.level, self.lift, self.most = classes, level, lift, most
        self.shelf = Shelf(None if folder is None else Path(folder), run, "search")
        self._warned, self._was_compared = False, bool(self.shelf.numbered(CLASS))
        sources = data.sources if data.labels else [None] * len(data)  # pairs are read one by one
        self.views = Views(
            looker, data, self.shelf, input_names(sources), batch_size, seed,
            progress or (lambda *_: None),
        )  # fmt: skip

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was kept, unless a folder was given for it."""
        if self.shelf.temporary:
            self.shelf.clear()

    def look(self, process: tuple[int, int] = (0, 1)) -> bool:
        """Look at the part of a process; whether it is this one that is to go on.

        That is the one which found nothing left for others; where all is looked at already, as
        after an interruption, the first.

        Raises
        ------
        LockedError
            While another process looks at this part, or processes of another count at theirs.
        """
        views = self.views
        with self.shelf.running(process, LOOKING):
            looked = views.look(process)
            goes_on = not views.missing() and (looked > 0 or process[0] == 0)
        self._warn(process[1] == 1)
        return goes_on

    def discover(self) -> Discovery:
        """Candidates and trials, of all images; what nobody has looked at yet is looked at.

        Raises
        ------
        LockedError
            While another process does the same.
        """
        views = self.views
        with self.shelf.running(task=DISCOVERING):
            with self.shelf.running(task=LOOKING) if views.missing() else nullcontext():
                looked = Looked(views)
            views.drop_beyond()
            self._warn()
            study = Study(looked, self.level, self.lift, self.most, views.seed, views.said)
            return study.search(_chosen(self.classes, looked), self.manifest)

    def _warn(self, alone: bool = True) -> None:
        """Say once that kept work was not used."""
        views = self.views
        note = views.redone.note(views.names, counts_new=self._was_compared, alone=alone)
        if note and not self._warned:
            self._warned = True
            warnings.warn(note, stacklevel=3)


def check(level: float, lift: float) -> None:
    """Raise ValueError for what `discover_spurious` would refuse, before a model is loaded."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected one between 0 and 1, got {level:g} — .05 is usual")
    if not lift >= 1:
        raise ValueError(f"lift: expected 1 at least, got {lift:g} — 3 is usual")


def _outputs(looker: Looker, dataset: Any) -> int:
    """How many outputs the model has: its classes."""
    wanted = looker.wanted if isinstance(looker.wanted, Preprocessing) else None
    try:
        prepared = wanted or looker.wanted()  # type: ignore[operator]
        channels, size = len(prepared.mean), prepared.size
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


def _chosen(classes: Sequence[int | str] | None, looked: Looked) -> list[int]:
    """The numbers of the classes to search."""
    data, there = looked.data, sorted(set(looked.labels.tolist()))
    if len(there) < 2:
        raise SemattnError(
            f"dataset: expected images of two classes at least, got {data.name(there[0])} alone — "
            "what a class has more often shows against others"
            + (f" ({data.note})" if data.note else "")
        )
    if classes is None:
        return there
    numbers = []
    for one in classes:
        number = resolve_class(one, data.names)
        if number not in there:
            raise SemattnError(
                f"classes: expected ones that images are of, got {data.name(number)} — there are "
                + ", ".join(data.name(other) for other in there[:8])
            )
        numbers.append(number)
    return list(dict.fromkeys(numbers))
