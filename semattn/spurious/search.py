"""`discover_spurious`: from a model and images to cues, batch by batch, kept as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attention.sites import refuse
from ..attention.target import output_tensor
from ..errors import SemattnError
from ..images import Preprocessing
from ..keypoints import detectors
from ..manifest import about_model, versions
from ..registry import choices
from . import places, trials
from .candidates import FOLDS, Candidate, Patches, distinct, find
from .cue import AROUND, EVERYWHERE, SAME_PLACE, Example, SpuriousCue
from .data import Labelled, read
from .detector import fit_detector
from .discovery import Discovery, Rank, Skipped
from .evidence import effect, score
from .looking import Look, Looker
from .shelf import Shelf
from .space import Space, fit_space

SAMPLED = 64  # images that the space is made of
REFERENCE = 1300  # images that a class is held against, at most
OWN = 400  # images of a class that are looked through, at most
FEWEST = 2 * FOLDS  # images of a class that can be searched
SHOWN = 12  # examples of a cue

Progress = Callable[[str, int, int], None]


def discover_spurious(
    model: nn.Module,
    dataset: Any,
    *,
    classes: Sequence[int | str] | None = None,
    names: Sequence[str] | None = None,
    level: float = 0.05,
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
    level : of significance, of the search as a whole (Bonferroni)
    most : candidates of a class that are tried
    batch_size : images in the model at once
    detector, preprocessing, seed : as for `semattn.explain.Explainer`
    folder : where the search is kept as it goes, to go on after an interruption; removed at the end
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
    if not 0 < level < 1:
        raise ValueError(f"level: expected one between 0 and 1, got {level:g} — .05 is usual")
    for name, value, least in (("most", most, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}: expected {least} at least, got {value}")
    detectors.ensure(detector)
    refuse(model, compiled=True)
    names = tuple(names if names is not None else getattr(model, "classes", None) or ())
    looker = Looker(model, preprocessing, detector, seed)
    data = read(dataset, names, _outputs(looker, dataset))
    options = {
        "level": level, "most": most, "batch_size": batch_size, "seed": seed,
        "classes": None if classes is None else [str(one) for one in classes],
        "detector": getattr(detector, "__name__", str(detector)),
        "preprocessing": None if preprocessing is None else str(preprocessing),
    }  # fmt: skip
    manifest = about_model(model) | {
        "data": {"images": len(data), "labels": data.note or "given"},
        "parameters": options, "versions": versions(),
    }  # fmt: skip
    shelf = Shelf(None if folder is None else Path(folder), manifest | {"names": _all_names(data)})
    try:
        study = _Study(looker, data, shelf, batch_size, seed, progress or (lambda *_: None))
        study.look()
        found = study.search(_chosen(classes, data, study), level, most, manifest)
    finally:
        if shelf.temporary:
            shelf.clear()
    shelf.clear()
    return found


@dataclass(frozen=True, eq=False)
class _Found:
    """A candidate that is tried: the rows that it was judged on, and what finds it."""

    target: int
    rows: np.ndarray
    mine: np.ndarray
    off: np.ndarray
    one: Candidate
    fixed: np.ndarray
    detector: Any  # in the space


class _Study:
    """One search under way. Rows are numbers of images that could be read."""

    def __init__(
        self, looker: Looker, data: Labelled, shelf: Shelf, size: int, seed: int, said: Progress
    ) -> None:
        self.looker, self.data, self.shelf = looker, data, shelf
        self.size, self.seed, self.said = size, seed, said
        self.skipped: list[Skipped] = []
        self.sources = np.zeros(0, int)
        self.labels = np.zeros(0, int)
        self.right: list[bool] = []
        self.grid: Any = None
        self._batch: Any = lru_cache(maxsize=None)(self._read_batch)

    def look(self) -> None:
        """Every image, once; what is on the shelf already is not looked at again."""
        count = len(self.data)
        self.space = self._space()
        sources, labels, at, skipped = [], [], [], []
        for number, start in enumerate(range(0, count, self.size)):
            every = list(range(start, min(start + self.size, count)))
            kept = self.shelf.get("look", number)
            if kept is None:
                kept = self._look(every)
                self.shelf.put("look", number, kept)
            for index, why in zip(kept["skipped"], kept["reasons"], strict=True):
                skipped.append(Skipped(self.data.source_name(int(index)), str(why)))
            sources += kept["sources"].tolist()
            labels += kept["labels"].tolist()
            at += [(number, row) for row in range(len(kept["sources"]))]
            self.right += kept["right"].tolist()
            self.said("looking", every[-1] + 1, count)
        self.skipped = skipped
        self.sources, self.labels = np.array(sources, int), np.array(labels, int)
        self._at = at
        if not len(sources):
            some = "; ".join(f"{one.name}: {one.reason}" for one in skipped[:3])
            raise SemattnError(f"dataset: expected images that can be read, got none ({some})")

    def search(
        self, targets: list[int], level: float, most: int, manifest: dict[str, Any]
    ) -> Discovery:
        """Candidates of every class, the trials of those that are more frequent, what they say."""
        found: list[_Found] = []
        judged, small = 0, []
        reference = _strided(np.arange(len(self.labels)), REFERENCE)
        self._reference = self._gather(reference)
        for done, target in enumerate(targets, 1):
            own = np.flatnonzero(self.labels == target)
            if len(own) < FEWEST or len(self.labels) - len(own) < FEWEST:
                small.append(f"{self.data.name(target)} ({len(own)})")
            else:
                count, some = self._candidates(target, _strided(own, OWN), reference, most)
                judged += count
                found += some
            self.said("comparing", done, len(targets))
        notes = [one for one in (self.data.note,) if one]
        if small:
            if len(small) == len(targets):
                raise SemattnError(
                    f"dataset: expected {FEWEST} images of a class at least, and as many of others,"
                    f" got {', '.join(small[:4])} — give more images"
                )
            notes.append(f"left out, for fewer than {FEWEST} images: {', '.join(small)}")
        tried = [one for one in found if one.one.p * judged < level]
        cues = []
        for number, one in enumerate(tried):
            cues.append(self._cue(number, one, judged, len(tried), level))
            self.said("trying", number + 1, len(tried))
        cues.sort(key=lambda one: (not one.confirmed, -one.score if one.score == one.score else 0))
        best = {target: max((one.score for one in cues if one.confirmed and one.target == target),
                            default=0.0) for target in targets}  # fmt: skip
        ranks = [Rank(target, self.data.name(target), int((self.labels == target).sum()),
                      best[target]) for target in targets]  # fmt: skip
        known = self.right and not self.data.note
        return Discovery(
            tuple(cues), tuple(sorted(ranks, key=lambda one: -one.score)), len(self.labels), judged,
            float(np.mean(self.right)) if known else None, level, tuple(self.skipped),
            tuple(notes), manifest,
        )  # fmt: skip

    # looking

    def _space(self) -> Space:
        kept = self.shelf.get("space", 0)
        if kept is None:
            parts = []
            wanted = _strided(np.arange(len(self.data)), SAMPLED)
            for start in range(0, len(wanted), self.size):
                sources = [self.data[int(i)][0] for i in wanted[start : start + self.size]]
                _, images, _ = self.looker.read(sources)
                if images is not None:
                    parts.append(self.looker.look(images).features.flatten(0, 1).numpy())
                self.said("sampling", min(start + self.size, len(wanted)), len(wanted))
            if not parts:
                _, _, why = self.looker.read([self.data[0][0]])
                raise SemattnError(
                    "dataset: expected images that can be read, got none "
                    f"({self.data.source_name(0)}: {why[0][1]})"
                )
            made = fit_space(np.concatenate(parts), self.seed)
            things = np.array([made.things.start, made.things.stop])
            kept = {"mean": made.mean, "axes": made.axes, "things": things}
            self.shelf.put("space", 0, kept)
        return Space(kept["mean"], kept["axes"], slice(*kept["things"].tolist()))

    def _look(self, every: list[int]) -> dict[str, np.ndarray]:
        pairs = [self.data[i] for i in every]
        good, images, why = self.looker.read([one[0] for one in pairs])
        skipped = {
            "skipped": np.array([every[i] for i, _ in why], int),
            "reasons": np.array([reason for _, reason in why], dtype=str),
        }
        if images is None:
            return skipped | {"sources": np.zeros(0, int), "labels": np.zeros(0, int),
                              "right": np.zeros(0, bool)}  # fmt: skip
        seen: Look = self.looker.look(images)
        predicted = seen.logits.argmax(dim=-1).numpy()
        known = [pairs[i][1] for i in good]
        labels = np.array([p if k is None else k for p, k in zip(predicted, known, strict=True)])
        if (wrong := labels[(labels < 0) | (labels >= seen.logits.shape[-1])]).size:
            raise SemattnError(
                f"dataset: expected labels below {seen.logits.shape[-1]}, the model's outputs, got "
                f"{wrong[0]} — give the model's own class numbers, or images alone"
            )
        self.grid = self.grid or seen.grid
        grid = seen.grid
        return skipped | {
            "sources": np.array([every[i] for i in good], int), "labels": labels.astype(int),
            "right": predicted == labels,
            "values": self.space(seen.features.numpy()).astype(np.float16),
            "thing": seen.thing.numpy().astype(np.float16),
            "keypoints": seen.keypoints.numpy().astype(np.float16),
            "shape": np.array([*grid.shape, *grid.image_size, grid.prefix], int),
            "cell": np.array(grid.cell),
        }  # fmt: skip

    def _read_batch(self, number: int) -> dict[str, np.ndarray]:
        kept = self.shelf.get("look", number)
        assert kept is not None
        return kept

    def _gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Values, things and keypoints of rows, in their order."""
        made: dict[str, list[np.ndarray]] = {"values": [], "thing": [], "keypoints": []}
        number, batch = -1, {}
        for row in rows:
            wanted, place = self._at[row]
            if wanted != number:
                number, batch = wanted, self._read_batch(wanted)
            for name, kept in made.items():
                kept.append(batch[name][place])
        return {name: np.stack(kept).astype(np.float32) for name, kept in made.items()}

    # comparing

    def _patches(self) -> Any:
        from ..grid import PatchGrid

        if self.grid is None:
            kept = next(b for b in self._batches() if "shape" in b)
            h, w, height, width, prefix = kept["shape"].tolist()
            self.grid = PatchGrid((h, w), (height, width), tuple(kept["cell"].tolist()), prefix)
        return self.grid

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        for number in dict.fromkeys(number for number, _ in self._at):
            yield self._read_batch(number)

    def _candidates(
        self, target: int, own: np.ndarray, reference: np.ndarray, most: int
    ) -> tuple[int, list[_Found]]:
        """How many candidates were judged, and the distinct ones that a class shows more often."""
        apart = self.labels[reference] != target
        rows = np.concatenate([own, reference[apart]])
        mine = np.arange(len(rows)) < len(own)
        known = self._gather(own)
        values = np.concatenate([known["values"], self._reference["values"][apart]])
        thing = np.concatenate([known["thing"], self._reference["thing"][apart]])
        over = places.on_object(thing)
        fixed = places.fixed_places(over, mine)
        off = places.off_object(over, mine[:, None] & fixed, self._patches().shape)
        rng = np.random.default_rng((self.seed, target))
        fold = np.empty(len(rows), int)
        for part in (np.flatnonzero(mine), np.flatnonzero(~mine)):
            fold[rng.permutation(part)] = np.arange(len(part)) % FOLDS
        every = find(Patches(values, off, mine, fold), self.space, self.seed)
        kept = []
        for one in distinct(every, mine, most):
            bears = one.bears & mine
            if bears.sum() < FOLDS or not (one.like & bears[:, None]).any():
                continue
            finder = fit_detector(values, one.like, bears, ~one.bears & ~mine, self.seed)
            kept.append(_Found(target, rows, mine, off, one, fixed, finder))
        return len(every), kept

    # trying

    def _cue(
        self, number: int, found: _Found, judged: int, tried: int, level: float
    ) -> SpuriousCue:
        one, mine, target = found.one, found.mine, found.target
        bears, others = found.rows[one.bears & mine], found.rows[~one.bears & ~mine]
        known = trials.Known(
            self.looker.model, self._patches(), self._inputs,
            lambda rows: found.detector.scores(self._gather(rows)["values"]) > 0,
            lambda rows: self._off(rows, found), self.size,
        )  # fmt: skip
        kept = self.shelf.get("trial", number)
        if kept is None:
            kept = vars(trials.run(known, target, bears, others, self.seed))
            self.shelf.put("trial", number, kept)
        trial = trials.Trial(**kept)
        removed, put = effect(trial.removed, self.seed), effect(trial.put, self.seed)
        p = min(1.0, max(one.p * judged, removed.p * tried, put.p * tried))
        inside, outside = one.bears[mine], one.bears[~mine]
        tried_on = trial.removed[np.isfinite(trial.removed)]
        value, interval = score(inside, outside, tried_on, self.seed)
        own = self._gather(bears)
        marks = found.detector.scores(own["values"]) > 0
        fixed, covers = places.sameness(marks), float(marks.mean())
        where = EVERYWHERE if covers > 0.5 else SAME_PLACE if fixed > places.SAME else AROUND
        counts = own["keypoints"]
        density = counts[marks].mean() / max(counts.mean(), 1e-6) if marks.any() else 0.0
        cue = SpuriousCue(
            target, self.data.name(target), value, interval, p < level, p,
            float(inside.mean()), float(outside.mean()), removed, put, where, fixed, covers,
            float(density), marks.mean(axis=0).reshape(self._patches().shape),
            self._examples(found, bears, own["values"], trial), (), self._raw(found.detector),
            self.looker.model, self.looker.preprocessing, self.looker.detector,
        )  # fmt: skip
        return self._with_groups(cue, found, known) if cue.confirmed else cue

    def _with_groups(self, cue: SpuriousCue, found: _Found, known: trials.Known) -> SpuriousCue:
        from dataclasses import replace

        shows = found.one.bears
        rows = {
            "class, cue": found.rows[shows & found.mine],
            "class, no cue": found.rows[~shows & found.mine],
            "others": found.rows[~shows & ~found.mine],
        }
        made = trials.groups(known, cue.matches, cue.target, rows, self.labels, self.seed)
        return replace(cue, groups=made)

    def _off(self, rows: np.ndarray, found: _Found) -> np.ndarray:
        over = places.on_object(self._gather(rows)["thing"])
        exempt = (self.labels[rows] == found.target)[:, None] & found.fixed
        return places.off_object(over, exempt, self._patches().shape)

    def _inputs(self, rows: np.ndarray) -> Tensor:
        return self._images(rows).inputs

    def _images(self, rows: np.ndarray) -> Any:
        _, images, why = self.looker.read([self.data[int(self.sources[row])][0] for row in rows])
        if why or images is None:
            raise SemattnError(
                f"dataset: expected images that stay as they are, got one that can no longer be "
                f"read ({why[0][1] if why else 'none'})"
            )
        return images

    def _examples(
        self, found: _Found, rows: np.ndarray, values: np.ndarray, trial: trials.Trial
    ) -> tuple[Example, ...]:
        shown = found.detector.shown(values)
        best = rows[np.argsort(-shown, kind="stable")[:SHOWN]]
        matches = found.detector(self._gather(best)["values"])
        images = self._images(best)
        tried = {int(row): place for place, row in enumerate(trial.rows)}
        made = []
        for place, row in enumerate(best.tolist()):
            chances = [float("nan")] * 2
            if row in tried:
                odds = (trial.before[tried[row]], trial.without[tried[row]])
                chances = torch.tensor(np.array(odds)).sigmoid().tolist()
            made.append(Example(
                self.data.source_name(int(self.sources[row])), images.pixels[place],
                matches[place].reshape(self._patches().shape), *chances,
            ))  # fmt: skip
        return tuple(made)

    def _raw(self, own: Any) -> Any:
        """A detector of the space as one of features."""
        from dataclasses import replace

        weights = self.space.axes @ own.weights
        return replace(own, weights=weights, offset=float(own.offset - self.space.mean @ weights))


def _strided(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, evenly over them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _all_names(data: Labelled) -> list[str]:
    return [data.source_name(i) for i in range(len(data))]


def _outputs(looker: Looker, dataset: Any) -> int:
    """How many outputs the model has: its classes."""
    wanted = looker.wanted if isinstance(looker.wanted, Preprocessing) else None
    weight = next(looker.model.parameters())
    try:
        size = (wanted or looker.wanted()).size  # type: ignore[operator]
        channels = 3
    except SemattnError:
        first = dataset[0]
        first = first[0] if isinstance(first, (tuple, list)) else first
        channels, *size = first.shape[-3:]
    with torch.no_grad():
        blank = torch.zeros(1, channels, *size, dtype=weight.dtype, device=weight.device)
        output = output_tensor(looker.model(blank))
    if output.ndim != 2 or output.shape[1] < 2:
        raise SemattnError(
            f"model: expected a classifier with outputs (B, K), got {tuple(output.shape)}"
        )
    return int(output.shape[1])


def _chosen(classes: Sequence[int | str] | None, data: Labelled, study: _Study) -> list[int]:
    """The numbers of the classes to search."""
    there = sorted(set(study.labels.tolist()))
    if len(there) < 2:
        raise SemattnError(
            f"dataset: expected images of two classes at least, got {data.name(there[0])} alone — "
            "what a class has more often shows against others"
        )
    if classes is None:
        return there
    numbers = []
    for one in classes:
        if isinstance(one, str) and not one.isdigit():
            if one not in data.names:
                raise ValueError(choices("class", one, data.names))
            one = data.names.index(one)
        if int(one) not in there:
            raise SemattnError(
                f"classes: expected ones that images are of, got {data.name(int(one))} — there are "
                + ", ".join(data.name(number) for number in there[:8])
            )
        numbers.append(int(one))
    return list(dict.fromkeys(numbers))
