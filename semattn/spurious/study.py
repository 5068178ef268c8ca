"""One search: candidates of every class, trials of the more frequent ones, what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import SemattnError
from . import places, trials
from .candidates import FOLDS, SAME, Patches, distinct, find, shared
from .cue import AROUND, EVERYWHERE, SAME_PLACE, Example, SpuriousCue
from .detector import Detector, fit_detector
from .discovery import Discovery, Rank
from .evidence import effect, score, shares, surely
from .looked import Looked
from .tried import Tried, packed, unpacked
from .views import Progress, strided

CLASS, TRIAL = "class-", "trial-"  # of the arrays of a class, and of a trial
IMAGES = "images"  # in those arrays: digest of all images
REFERENCE = 1300  # images that a class is held against, at most
OWN = 400  # images of a class that are looked through, at most
FEWEST = 2 * FOLDS  # images of a class that can be searched
SHOWN = 12  # examples of a cue
TOGETHER = 0.7  # of the images that show one show another, of which it may be a part


class Study:
    """A search of images that were looked at.

    Parameters
    ----------
    looked : at what
    level, lift, most, seed : as of `discover_spurious`
    said : told of the progress
    """

    def __init__(
        self, looked: Looked, level: float, lift: float, most: int, seed: int, said: Progress
    ) -> None:
        self.looked, self.level, self.lift, self.most = looked, level, lift, most
        self.seed, self.said = seed, said
        self.reference = strided(np.arange(len(looked)), REFERENCE)
        self._reference = looked.gather(self.reference)

    def search(self, targets: Sequence[int], manifest: dict[str, Any]) -> Discovery:
        """Everything that there is to find in these classes."""
        looked, found, judged = self.looked, list[Tried](), 0
        self._drop_changed()
        small = [target for target in targets if not self._enough(target)]
        if len(small) == len(targets):
            raise SemattnError(
                f"dataset: expected {FEWEST} images of a class at least, and as many of others, "
                f"got {self._counted(small[:4])} — give more images"
            )
        full = []
        for done, target in enumerate(targets, 1):
            if target not in small:
                count, some = self._kept(target)
                judged += count
                # More are judged as it goes on, so what is not frequent now will never be.
                found = [one for one in (*found, *some) if one.one.p * judged < self.level]
                if not count:
                    full.append(target)
            self.said("comparing", done, len(targets))
        tried = [one for one in found if one.lift >= self.lift]
        parts = shares([one.one.p for one in tried])
        cues: list[SpuriousCue] = []
        if tried:
            self.said("trying", 0, len(tried))
        for number, (one, share) in enumerate(zip(tried, parts, strict=True)):
            known = [other.detector for other, cue in zip(tried, cues, strict=False)
                     if cue.confirmed and cue.target == one.target]  # fmt: skip
            cues.append(self._cue(number, one, judged, share, known))
            self.said("trying", number + 1, len(tried))
        cues.sort(key=lambda one: (not one.confirmed, -one.score))
        notes = [note for note in (looked.data.note, looked.data.strays) if note]
        if len(tried) < len(found):
            notes.append(
                f"not tried: {len(found) - len(tried)} kinds of patches that a class shows more "
                f"often, but not surely {self.lift:g} times as often as others"
            )
        if small:
            notes.append(f"left out, for fewer than {FEWEST} images: {self._counted(small)}")
        if full:
            notes.append(
                "left out, for too few images with patches beside what stands out in them: "
                + self._counted(full)
            )
        return Discovery(
            tuple(cues), self._ranking(cues, targets), len(looked), judged,
            None if looked.data.note else looked.accuracy(), self.level,
            tuple(looked.skipped), tuple(notes), manifest,
        )  # fmt: skip

    def _enough(self, target: int) -> bool:
        count = int((self.looked.labels == target).sum())
        return FEWEST <= count <= len(self.looked) - FEWEST

    def _counted(self, targets: Sequence[int]) -> str:
        name, labels = self.looked.data.name, self.looked.labels
        return ", ".join(f"{name(one)} ({int((labels == one).sum())})" for one in targets)

    def _ranking(self, cues: Sequence[SpuriousCue], targets: Sequence[int]) -> tuple[Rank, ...]:
        """The most biased class first; those without a confirmed cue by what was tried of them."""

        def best(target: int, confirmed: bool) -> float:
            own = [one.score for one in cues if one.target == target and one.confirmed >= confirmed]
            return max([0.0, *own])

        looked = self.looked
        ranks = [
            Rank(one, looked.data.name(one), int((looked.labels == one).sum()), best(one, True))
            for one in targets
        ]
        return tuple(sorted(ranks, key=lambda one: (-one.score, -best(one.target, False))))

    def _kept(self, target: int) -> tuple[int, list[Tried]]:
        """What `_candidates` gives, from the shelf where it was done already."""
        name = f"{CLASS}{target:06d}"
        kept = self._arrays(name)
        if kept is None:
            kept = packed(*self._candidates(target))
            self._keep(name, kept)
        return unpacked(target, kept)

    def _arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """Return what was derived from the images, None where it is still to be done."""
        kept = self.looked.shelf.arrays(name)
        return None if kept is None else {key: kept[key] for key in kept if key != IMAGES}

    def _keep(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        self.looked.shelf.keep_arrays(name, arrays | {IMAGES: np.array(self.looked.identity)})

    def _drop_changed(self) -> None:
        """Remove what was derived from other images."""
        shelf = self.looked.shelf
        for prefix in (CLASS, TRIAL):
            for name in shelf.numbered(prefix).values():
                state = shelf.arrays(name, (IMAGES,)) or {}
                if str(state.get(IMAGES)) != self.looked.identity:
                    shelf.remove(name)

    def _candidates(self, target: int) -> tuple[int, list[Tried]]:
        """How many kinds of patches were judged, and the distinct ones, the surest first."""
        looked = self.looked
        own = strided(np.flatnonzero(looked.labels == target), OWN)
        apart = looked.labels[self.reference] != target
        rows = np.concatenate([own, self.reference[apart]])
        mine = np.arange(len(rows)) < len(own)
        known = looked.gather(own)
        values, thing = (
            np.concatenate([known[name], self._reference[name][apart]])
            for name in ("values", "thing")
        )
        over = places.on_object(thing)
        fixed = places.fixed_places(over, mine)
        off = places.off_object(over, mine[:, None] & fixed, looked.grid.shape)
        rng = np.random.default_rng((self.seed, target))
        fold = np.empty(len(rows), int)
        for part in (np.flatnonzero(mine), np.flatnonzero(~mine)):
            fold[rng.permutation(part)] = np.arange(len(part)) % FOLDS
        every = find(Patches(values, off, mine, fold), looked.space, self.seed)
        kept: list[Tried] = []
        for one in distinct(every, mine, 2 * self.most):
            bears = one.bears & mine
            if bears.sum() < FOLDS or not (one.like & bears[:, None]).any():
                continue
            finder = fit_detector(values, one.like, bears, ~one.bears & ~mine, self.seed)
            new = Tried(target, rows, mine, fixed, one, finder, finder.scores(values[mine]) > 0)
            if any(shared(new.marks, other.marks) > SAME for other in kept):
                continue
            whole = next((n for n, other in enumerate(kept) if self._part(new, other)), None)
            if whole is not None:
                kept[whole] = self._joined(kept[whole], new, values)
            elif len(kept) < self.most:
                kept.append(new)
        return len(every), kept

    def _part(self, one: Tried, other: Tried) -> bool:
        """Whether one is a part of another: the same images show it, in patches beside its own."""
        ours, theirs = one.one.bears & one.mine, other.one.bears & other.mine
        together = float((ours & theirs).sum()) / max(1, ours.sum())
        inside = ours[one.mine, None]
        near = places.beside(one.marks & inside, other.marks & inside, self.looked.grid.shape)
        return together > TOGETHER and near > places.BESIDE

    def _joined(self, one: Tried, part: Tried, values: np.ndarray) -> Tried:
        """One with the patches of another: still counted as it was, found by both."""
        whole = replace(one.one, like=one.one.like | part.one.like)
        bears, never = whole.bears & one.mine, ~whole.bears & ~one.mine
        finder = fit_detector(values, whole.like, bears, never, self.seed)
        marks = finder.scores(values[one.mine]) > 0
        return replace(one, one=whole, detector=finder, marks=marks)

    def _cue(
        self, number: int, tried: Tried, judged: int, share: float, confirmed: list[Detector]
    ) -> SpuriousCue:
        """Both trials of a candidate, and what is known of it.

        Patches of cues of the class that are `confirmed` already stay out of its trials: what is
        inside a frame is not to borrow the effect of the frame.
        """
        looked, one, mine = self.looked, tried.one, tried.mine
        known = trials.Known(
            looked.looker.model, looked.grid, looked.inputs,
            lambda rows: self._patches(rows, tried, confirmed), looked.size,
        )  # fmt: skip
        bears = tried.rows[one.bears & mine]
        kept = self._arrays(f"{TRIAL}{number:06d}")
        if kept is None:
            others = tried.rows[~one.bears & ~mine]
            kept = vars(trials.run(known, tried.target, bears, others, self.seed))
            self._keep(f"{TRIAL}{number:06d}", kept)
        trial = trials.Trial(**kept)
        removed, put = effect(trial.removed, self.seed), effect(trial.put, self.seed)
        p = surely(one.p, judged, removed.p, put.p, share)
        inside, outside = one.bears[mine], one.bears[~mine]
        went = trial.removed[np.isfinite(trial.removed)]
        value, interval = score(inside, outside, went, self.seed)
        own = looked.gather(bears)
        marks = tried.detector.scores(own["values"]) > 0
        fixed, covers = places.sameness(marks), float(marks.mean())
        dense = own["keypoints"][marks].mean() if marks.any() else 0.0
        cue = SpuriousCue(
            target=tried.target, name=looked.data.name(tried.target), score=value,
            interval=interval, confirmed=p < self.level, p=p, inside=float(inside.mean()),
            outside=float(outside.mean()), removed=removed, transplanted=put,
            where=EVERYWHERE if covers > 0.5 else SAME_PLACE if fixed > places.SAME else AROUND,
            fixed=fixed, covers=covers,
            keypoints=float(dense / max(own["keypoints"].mean(), 1e-6)),
            place=marks.mean(axis=0).reshape(looked.grid.shape),
            examples=self._examples(tried, bears, own["values"], trial), groups=(),
            detector=tried.detector.before(looked.space), model=looked.looker.model,
            preprocessing=looked.looker.preprocessing, finder=looked.looker.detector,
            grid=looked.grid,
        )  # fmt: skip
        if not cue.confirmed:
            return cue
        rows = {
            "class, cue": bears,
            "class, no cue": tried.rows[~one.bears & mine],
            "others": tried.rows[~one.bears & ~mine],
        }
        made = trials.groups(known, cue.matches, cue.target, rows, looked.labels, self.seed)
        return replace(cue, groups=made)

    def _patches(self, rows: np.ndarray, tried: Tried, confirmed: list[Detector]) -> trials.Patches:
        """The patches of rows, as trials know them; those of confirmed cues are not off."""
        known = self.looked.gather(rows)
        thing = places.on_object(known["thing"])
        exempt = (self.looked.labels[rows] == tried.target)[:, None] & tried.fixed
        off = places.off_object(thing, exempt, self.looked.grid.shape)
        for one in confirmed:
            off &= one.scores(known["values"]) <= 0
        return trials.Patches(tried.detector.scores(known["values"]) > 0, thing, off)

    def _examples(
        self, tried: Tried, rows: np.ndarray, values: np.ndarray, trial: trials.Trial
    ) -> tuple[Example, ...]:
        """The images that show it the surest."""
        order = np.argsort(-tried.detector.shown(values), kind="stable")[:SHOWN]
        matches = tried.detector(values[order])
        images = self.looked.images(rows[order])
        place_of = {int(row): place for place, row in enumerate(trial.rows)}
        made = []
        for place, row in enumerate(rows[order].tolist()):
            chances = [float("nan")] * 2
            if row in place_of:
                odds = [trial.before[place_of[row]], trial.without[place_of[row]]]
                chances = torch.tensor(odds, device="cpu").sigmoid().tolist()
            shown = matches[place].reshape(self.looked.grid.shape)
            made.append(
                Example(
                    self.looked.name(row),
                    images.pixels[place],
                    shown,
                    chances[0],
                    chances[1],
                    self.looked.grid,
                )
            )
        return tuple(made)
