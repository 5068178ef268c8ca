"""Search over the classes of a data set: candidates, interventions on the frequent ones, cues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import SemattnError
from ..utils.progress import Progress
from . import interventions as trials, places
from .candidates import FOLDS, SAME, Patches, find_candidates, overlap_fraction, select_distinct
from .cue import AROUND, EVERYWHERE, SAME_PLACE, Example, SpuriousCue
from .cue_detector import Detector, fit_detector
from .discovery import Discovery, Rank
from .feature_store import strided
from .looked import Looked
from .significance import effect, score, shares, surely
from .tried import CandidateCue, from_arrays, to_arrays

CLASS, TRIAL = "class-", "trial-"  # name prefixes in the store: of a class, of a candidate
IMAGES = "images"  # name of the digest of all images in those arrays
REFERENCE = 1300  # images of other classes that a class is compared with, at most
OWN = 400  # images of a class that are used, at most
FEWEST = 2 * FOLDS  # images of a class that a search needs
SHOWN = 12  # examples of a cue, at most
TOGETHER = 0.7  # fraction of the images of a candidate that show another, to be a part of it


class Study:
    """Search over images whose features are stored.

    Parameters
    ----------
    images : the images
    alpha, min_relative_risk, max_candidates, seed : as in `discover_spurious`
    progress : called with the stage, the number of steps done, and the total
    """

    def __init__(
        self,
        images: Looked,
        alpha: float,
        min_relative_risk: float,
        max_candidates: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.images, self.alpha = images, alpha
        self.min_relative_risk, self.max_candidates = min_relative_risk, max_candidates
        self.seed, self.progress = seed, progress
        self.reference = strided(np.arange(len(images)), REFERENCE)
        self._reference = images.gather(self.reference)

    def search(self, targets: Sequence[int], manifest: dict[str, Any]) -> Discovery:
        """Return the cues of the target classes."""
        images, frequent, judged = self.images, list[CandidateCue](), 0
        self._drop_changed()
        small = [target for target in targets if not self._is_searchable(target)]
        if len(small) == len(targets):
            raise SemattnError(
                f"dataset: expected at least {FEWEST} images of a class, and as many of others, "
                f"got {self._image_counts(small[:4])} — give more images"
            )
        full = []
        for done, target in enumerate(targets, 1):
            if target not in small:
                count, class_candidates = self._stored_candidates(target)
                judged += count
                # `judged` only increases, so a candidate that fails now would fail at the end.
                frequent = [*frequent, *class_candidates]
                frequent = [cue for cue in frequent if cue.candidate.p * judged < self.alpha]
                if not count:
                    full.append(target)
            self.progress("comparing", done, len(targets))
        tested = [
            candidate_cue
            for candidate_cue in frequent
            if candidate_cue.lift >= self.min_relative_risk
        ]
        level_shares = shares([candidate_cue.candidate.p for candidate_cue in tested])
        cues: list[SpuriousCue] = []
        if tested:
            self.progress("trying", 0, len(tested))
        for number, (candidate_cue, share) in enumerate(zip(tested, level_shares, strict=True)):
            confirmed = [
                previous.detector
                for previous, cue in zip(tested, cues, strict=False)
                if cue.confirmed and cue.target == candidate_cue.target
            ]
            cues.append(self._cue(number, candidate_cue, judged, share, confirmed))
            self.progress("trying", number + 1, len(tested))
        cues.sort(key=lambda cue: (not cue.confirmed, -cue.score))
        notes = [note for note in (images.data.note, images.data.strays) if note]
        if len(tested) < len(frequent):
            notes.append(
                f"not tested: {len(frequent) - len(tested)} candidates that are more frequent in a "
                f"class, but whose relative risk may be below {self.min_relative_risk:g}"
            )
        if small:
            notes.append(
                f"classes with fewer than {FEWEST} images are left out: {self._image_counts(small)}"
            )
        if full:
            notes.append(
                "classes with too few images that have patches off the object are left out: "
                + self._image_counts(full)
            )
        return Discovery(
            tuple(cues), self._ranking(cues, targets), len(images), judged,
            None if images.data.note else images.accuracy(), self.alpha,
            tuple(images.skipped), tuple(notes), manifest,
        )  # fmt: skip

    def _is_searchable(self, target: int) -> bool:
        count = int((self.images.labels == target).sum())
        return FEWEST <= count <= len(self.images) - FEWEST

    def _image_counts(self, targets: Sequence[int]) -> str:
        name, labels = self.images.data.name, self.images.labels
        return ", ".join(f"{name(target)} ({int((labels == target).sum())})" for target in targets)

    def _ranking(self, cues: Sequence[SpuriousCue], targets: Sequence[int]) -> tuple[Rank, ...]:
        """Return the classes, the most biased first; without a confirmed cue, by their best cue."""

        def best(target: int, confirmed: bool) -> float:
            scores = [
                cue.score for cue in cues if cue.target == target and cue.confirmed >= confirmed
            ]
            return max([0.0, *scores])

        images = self.images
        ranks = [
            Rank(target, images.data.name(target), int((images.labels == target).sum()), score)
            for target, score in ((target, best(target, True)) for target in targets)
        ]
        return tuple(sorted(ranks, key=lambda rank: (-rank.score, -best(rank.target, False))))

    def _stored_candidates(self, target: int) -> tuple[int, list[CandidateCue]]:
        """Return the result of `_candidates`, from the store if it is there."""
        name = f"{CLASS}{target:06d}"
        arrays = self._load(name)
        if arrays is None:
            arrays = to_arrays(*self._candidates(target))
            self._save(name, arrays)
        return from_arrays(target, arrays)

    def _load(self, name: str) -> dict[str, np.ndarray] | None:
        """Return stored results that were derived from the images, None if there are none."""
        arrays = self.images.store.read_arrays(name)
        return None if arrays is None else {key: arrays[key] for key in arrays if key != IMAGES}

    def _save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        self.images.store.store_arrays(name, arrays | {IMAGES: np.array(self.images.identity)})

    def _drop_changed(self) -> None:
        """Remove results that were derived from other images."""
        store = self.images.store
        for prefix in (CLASS, TRIAL):
            for name in store.numbered(prefix).values():
                state = store.read_arrays(name, (IMAGES,)) or {}
                if str(state.get(IMAGES)) != self.images.identity:
                    store.remove(name)

    def _candidates(self, target: int) -> tuple[int, list[CandidateCue]]:
        """Return the number of judged candidates and the distinct ones by increasing p-value."""
        images = self.images
        class_rows = strided(np.flatnonzero(images.labels == target), OWN)
        is_other = images.labels[self.reference] != target
        rows = np.concatenate([class_rows, self.reference[is_other]])
        in_class = np.arange(len(rows)) < len(class_rows)
        class_arrays = images.gather(class_rows)
        values, objectness = (
            np.concatenate([class_arrays[name], self._reference[name][is_other]])
            for name in ("values", "thing")
        )
        on_object = places.on_object(objectness)
        fixed = places.fixed_places(on_object, in_class)
        off_object = places.off_object(on_object, in_class[:, None] & fixed, images.grid.shape)
        rng = np.random.default_rng((self.seed, target))
        fold = np.empty(len(rows), int)
        for part in (np.flatnonzero(in_class), np.flatnonzero(~in_class)):
            fold[rng.permutation(part)] = np.arange(len(part)) % FOLDS
        candidates = find_candidates(
            Patches(values, off_object, in_class, fold), images.space, self.seed
        )
        selected: list[CandidateCue] = []
        for candidate in select_distinct(candidates, in_class, 2 * self.max_candidates):
            cue_rows = candidate.has_cue & in_class
            if cue_rows.sum() < FOLDS or not (candidate.patch_mask & cue_rows[:, None]).any():
                continue
            detector = fit_detector(
                values, candidate.patch_mask, cue_rows, ~candidate.has_cue & ~in_class, self.seed
            )
            marks = detector.scores(values[in_class]) > 0
            new_cue = CandidateCue(target, rows, in_class, fixed, candidate, detector, marks)
            if any(overlap_fraction(new_cue.marks, previous.marks) > SAME for previous in selected):
                continue
            wholes = [i for i, cue in enumerate(selected) if self._is_part(new_cue, cue)]
            if wholes:
                selected[wholes[0]] = self._join(selected[wholes[0]], new_cue, values)
            elif len(selected) < self.max_candidates:
                selected.append(new_cue)
        return len(candidates), selected

    def _is_part(self, first: CandidateCue, second: CandidateCue) -> bool:
        """Return whether a candidate is a part of another: same images, neighbouring patches."""
        first_rows = first.candidate.has_cue & first.in_class
        second_rows = second.candidate.has_cue & second.in_class
        shared_fraction = float((first_rows & second_rows).sum()) / max(1, first_rows.sum())
        has_first = first_rows[first.in_class, None]
        near = places.beside(
            first.marks & has_first, second.marks & has_first, self.images.grid.shape
        )
        return shared_fraction > TOGETHER and near > places.BESIDE

    def _join(
        self, whole_cue: CandidateCue, part: CandidateCue, values: np.ndarray
    ) -> CandidateCue:
        """Return the whole candidate with the patches of a part; its frequencies do not change."""
        candidate = replace(
            whole_cue.candidate,
            patch_mask=whole_cue.candidate.patch_mask | part.candidate.patch_mask,
        )
        has_cue = candidate.has_cue & whole_cue.in_class
        without_cue = ~candidate.has_cue & ~whole_cue.in_class
        detector = fit_detector(values, candidate.patch_mask, has_cue, without_cue, self.seed)
        marks = detector.scores(values[whole_cue.in_class]) > 0
        return replace(whole_cue, candidate=candidate, detector=detector, marks=marks)

    def _cue(
        self,
        number: int,
        tested_cue: CandidateCue,
        judged: int,
        share: float,
        confirmed: list[Detector],
    ) -> SpuriousCue:
        """Run both interventions on a candidate and describe it as a cue.

        Patches of `confirmed` cues of the class are left out of the interventions, so that a
        candidate inside a frame does not get the effect of the frame.
        """
        images, candidate, in_class = self.images, tested_cue.candidate, tested_cue.in_class
        context = trials.InterventionContext(
            images.looker.model, images.grid, images.inputs,
            lambda rows: self._patches(rows, tested_cue, confirmed), images.size,
        )  # fmt: skip
        cue_rows = tested_cue.rows[candidate.has_cue & in_class]
        arrays = self._load(f"{TRIAL}{number:06d}")
        if arrays is None:
            others = tested_cue.rows[~candidate.has_cue & ~in_class]
            arrays = vars(trials.run(context, tested_cue.target, cue_rows, others, self.seed))
            self._save(f"{TRIAL}{number:06d}", arrays)
        trial = trials.Trial(**arrays)
        removed, put = effect(trial.removed, self.seed), effect(trial.put, self.seed)
        p = surely(candidate.p, judged, removed.p, put.p, share)
        inside, outside = candidate.has_cue[in_class], candidate.has_cue[~in_class]
        removal_effects = trial.removed[np.isfinite(trial.removed)]
        value, interval = score(inside, outside, removal_effects, self.seed)
        cue_arrays = images.gather(cue_rows)
        marks = tested_cue.detector.scores(cue_arrays["values"]) > 0
        fixed, covers = places.sameness(marks), float(marks.mean())
        dense = cue_arrays["keypoints"][marks].mean() if marks.any() else 0.0
        cue = SpuriousCue(
            target=tested_cue.target, name=images.data.name(tested_cue.target), score=value,
            interval=interval, confirmed=p < self.alpha, p=p, inside=float(inside.mean()),
            outside=float(outside.mean()), removed=removed, transplanted=put,
            where=EVERYWHERE if covers > 0.5 else SAME_PLACE if fixed > places.SAME else AROUND,
            fixed=fixed, covers=covers,
            keypoints=float(dense / max(cue_arrays["keypoints"].mean(), 1e-6)),
            place=marks.mean(axis=0).reshape(images.grid.shape),
            examples=self._examples(tested_cue, cue_rows, cue_arrays["values"], trial), groups=(),
            detector=tested_cue.detector.before(images.space), model=images.looker.model,
            preprocessing=images.looker.preprocessing, finder=images.looker.detector,
            grid=images.grid,
        )  # fmt: skip
        if not cue.confirmed:
            return cue
        rows = {
            "class, cue": cue_rows,
            "class, no cue": tested_cue.rows[~candidate.has_cue & in_class],
            "others": tested_cue.rows[~candidate.has_cue & ~in_class],
        }
        groups = trials.groups(context, cue.matches, cue.target, rows, images.labels, self.seed)
        return replace(cue, groups=groups)

    def _patches(
        self, rows: np.ndarray, tested_cue: CandidateCue, confirmed: list[Detector]
    ) -> trials.TrialPatches:
        """Return the patches of rows for interventions.

        Patches of confirmed cues do not count as off the object.
        """
        arrays = self.images.gather(rows)
        on_object = places.on_object(arrays["thing"])
        exempt = (self.images.labels[rows] == tested_cue.target)[:, None] & tested_cue.fixed
        off_object = places.off_object(on_object, exempt, self.images.grid.shape)
        for detector in confirmed:
            off_object &= detector.scores(arrays["values"]) <= 0
        return trials.TrialPatches(
            tested_cue.detector.scores(arrays["values"]) > 0, on_object, off_object
        )

    def _examples(
        self, tested_cue: CandidateCue, rows: np.ndarray, values: np.ndarray, trial: trials.Trial
    ) -> tuple[Example, ...]:
        """Return the images that match the cue best."""
        order = np.argsort(-tested_cue.detector.shown(values), kind="stable")[:SHOWN]
        matches = tested_cue.detector(values[order])
        pictures = self.images.images(rows[order])
        position_of = {int(row): position for position, row in enumerate(trial.rows)}
        examples = []
        for position, row in enumerate(rows[order].tolist()):
            before = without = float("nan")
            if row in position_of:
                odds = [trial.before[position_of[row]], trial.without[position_of[row]]]
                before, without = torch.tensor(odds, device="cpu").sigmoid().tolist()
            example_matches = matches[position].reshape(self.images.grid.shape)
            examples.append(
                Example(
                    self.images.name(row),
                    pictures.pixels[position],
                    example_matches,
                    before,
                    without,
                    self.images.grid,
                )
            )
        return tuple(examples)
