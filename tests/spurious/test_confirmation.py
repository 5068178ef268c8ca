"""Tests of candidates: results are stored by content, and notes say what is not tested."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from semattn.grid import PatchGrid
from semattn.spurious import confirmation, cue as cue_module, search as search_module
from semattn.spurious.candidates import Candidate
from semattn.spurious.confirmation import content_number
from semattn.spurious.cue import _examples, describe_cue, intervention_patches, part_off_object
from semattn.spurious.cue_detector import CandidateCue, CueDetector
from semattn.spurious.interventions import InterventionPatches, InterventionResult, no_result
from semattn.spurious.marks.candidates import MarkCandidate
from semattn.spurious.marks.recurring import RecurringMark
from semattn.spurious.search import Search
from semattn.spurious.significance import effect, least_p_of_effect
from semattn.utils.processes import ignore_progress
from semattn.utils.run_store import RunStore
from tests import marked


def patch_kind(target: int = 0, p: float = 0.01, rows=(0, 1, 2, 3)) -> CandidateCue:
    in_class, patches = np.array([True, True, False, False]), np.zeros(9, bool)
    candidate = Candidate(np.eye(4, 9).astype(bool), in_class, p)
    detector = CueDetector(np.ones(2, np.float32), 0.5, 1.0, 0.0)
    return CandidateCue(
        target, np.array(rows), in_class, patches, patches, candidate, detector,
        np.eye(2, 9).astype(bool),
    )  # fmt: skip


def mark_of(p: float = 0.01, shift: float = 0) -> MarkCandidate:
    template = marked.mark().template
    region = template.region(np.array([[1.0, 0, shift], [0, 1, 0]]), 9, False)
    mark = RecurringMark(template, {2: [region]}, 0, p)
    return MarkCandidate(mark, np.arange(4), np.array([0, 0, 1, 1]))


def test_the_number_of_candidates_depends_on_their_content_and_order():
    candidates = [
        [patch_kind()], [patch_kind(1)], [patch_kind(p=0.02)], [patch_kind(rows=(0, 1, 2, 4))],
        [replace(patch_kind(), fixed=np.arange(9) == 3)], [mark_of()], [mark_of(0.02)],
        [mark_of(shift=1)], [patch_kind(), mark_of()], [mark_of(), patch_kind()],
    ]  # fmt: skip
    numbers = [content_number(some) for some in candidates]
    assert len(set(numbers)) == len(candidates)
    assert numbers[0] == content_number([patch_kind()])
    assert numbers[5] == content_number([mark_of()])


@pytest.fixture
def search(monkeypatch) -> Search:
    """Return a search whose interventions give the p-value of the candidate as their effect."""
    instance = Search.__new__(Search)
    instance.run_store = RunStore(None, {}, "search")
    instance.store = SimpleNamespace(index=SimpleNamespace(digest="images"))
    instance.progress, instance.alpha, instance.seed = ignore_progress, 0.05, 0
    instance.computed = []

    def intervene(store, candidate, context, seed):
        instance.computed.append(candidate.p)
        values = np.full(instance.n_images, candidate.p)
        by_class = np.tile(values[:, None], instance.n_classes)
        return InterventionResult(np.arange(len(values)), values, values, values, values, by_class)

    def describe(store, candidate, result, *_):
        return SimpleNamespace(target=candidate.target, confirmed=candidate.p < 0.03,
                               score=-candidate.p, effect=float(result.removal[0]))  # fmt: skip

    monkeypatch.setattr(search_module, "context_of", lambda *_: None)
    monkeypatch.setattr(search_module, "intervene", intervene)
    monkeypatch.setattr(search_module, "describe", describe)
    instance.n_classes, instance.n_images = 5, 6
    return instance


def test_a_resumed_search_does_not_mix_up_candidates(search):
    first, second, third = patch_kind(p=0.01), mark_of(p=0.04), patch_kind(1, p=0.02)

    def effects(*candidates):
        search.computed.clear()
        return [cue.effect for cue in search._test(candidates, 9)[0]]

    assert effects(first, second) == [0.01, 0.04] == search.computed
    assert effects(first, second) == [0.01, 0.04] and not search.computed
    # The other candidates of a class count if they are confirmed: their patches are left out.
    assert effects(second) == [0.04] == search.computed
    assert effects(third, second) == [0.02, 0.04] and search.computed == [0.02]
    assert effects(first, third, second) == [0.01, 0.02, 0.04] and not search.computed


def test_missing_specificity_is_noted(search):
    assert search._test([patch_kind()], 9)[1] == []
    search.n_classes = 2
    candidates = [patch_kind(p=0.02), mark_of(p=0.02)]
    (note,) = search._test(candidates, 9)[1]
    assert note.startswith("candidates without a test of specificity: 2 of 2; it needs at least 2 ")
    assert search._test([], 9) == ([], [])


def test_candidates_in_too_few_images_are_noted(search):
    search.n_images = 5
    assert search._test([patch_kind()], 9)[1] == []
    # Two candidates share the level: 1 / 32 is below .05 and above half of it.
    (note,) = search._test([patch_kind(p=0.02), mark_of(p=0.02)], 9)[1]
    assert note.startswith("candidates in too few images to be confirmed: 2 of 2; n images ")
    effects = np.full(5, 1.0)
    assert effect(effects).p == pytest.approx(least_p_of_effect(5), rel=0.1)


def test_interventions_change_surroundings_of_compact_objects_and_fixed_marks_only():
    compact, scattered = np.full((2, 8, 8), 0.1)
    compact[3:6, 3:6] = 1
    scattered[::2, ::2] = 1
    objectness = np.stack([compact, scattered] * 2).reshape(4, 64)
    arrays = {"objectness": objectness, "values": np.zeros((4, 64, 2), np.float32)}
    labels = np.array([0, 0, 1, 1])
    index = SimpleNamespace(labels=labels, grid=SimpleNamespace(shape=(8, 8)))
    store = SimpleNamespace(index=index)
    none, corner = np.zeros(64, bool), np.arange(64) == 63
    kind = replace(patch_kind(), fixed=none, repeated=none)
    rows = np.arange(4)
    patches = intervention_patches(store, kind, rows, arrays)
    assert patches.off_object.sum(axis=1).tolist() == [64 - 25, 0] * 2
    assert rows[patches.is_usable].tolist() == [0, 2]

    kind = replace(kind, fixed=corner)  # of the class only
    patches = intervention_patches(store, kind, rows, arrays)
    assert patches.off_object.sum(axis=1).tolist() == [64 - 25, 1, 64 - 25, 0]
    assert rows[patches.is_usable].tolist() == [0, 1, 2]


def test_examples_and_the_part_off_the_object_are_those_of_usable_images_first():
    marks = np.tile(np.arange(4) < 2, (4, 1))
    off_object = np.array([[0, 0, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
    is_usable = np.array([False, True, False, True])
    patches = InterventionPatches(marks, ~off_object, off_object, is_usable)
    assert part_off_object(patches) == 3 / 4
    unusable = replace(patches, is_usable=np.zeros(4, bool))
    assert np.isnan(part_off_object(unusable))

    images = np.zeros((4, 8, 8, 3), np.uint8)
    store = SimpleNamespace(
        name=str, index=SimpleNamespace(grid=PatchGrid((2, 2), (8, 8), (4, 4))),
        images=lambda rows: SimpleNamespace(pixels=images[rows]),
    )  # fmt: skip
    detector = CueDetector(np.ones(1, np.float32), 0.0, 1.0, 0.0)
    shown = np.array([4, 1, 3, 2])  # patches of each image with a positive score
    values = np.where(np.arange(4) < shown[:, None], 1.0, -1.0)[..., None]
    examples = _examples(store, detector, np.arange(4), values, patches, no_result(0))
    assert [example.name for example in examples] == ["3", "1", "0", "2"]
    assert np.array_equal(examples[0].off_object, off_object[3].reshape(2, 2))


def test_a_kind_of_patches_that_is_mostly_on_the_object_is_a_part_of_it(monkeypatch):
    asked = []

    def patches(n_off_object: int) -> InterventionPatches:
        marks = np.tile(np.arange(9) < 8, (2, 1))
        off_object = np.tile(np.arange(9) < n_off_object, (2, 1))
        return InterventionPatches(marks, ~off_object, off_object, np.array([True, False]))

    def is_part(n_off_object: int) -> bool:
        monkeypatch.setattr(
            confirmation, "intervention_patches", lambda *args: patches(n_off_object)
        )
        return confirmation.is_on_object(store, patch_kind())

    store = SimpleNamespace(gather=lambda rows: asked.append(rows.tolist()))
    assert [is_part(count) for count in (0, 2, 3, 8)] == [True, True, False, False]
    assert asked == [[0, 1]] * 4  # the images of the class that show it
    assert not confirmation.is_on_object(store, mark_of())


def test_the_part_off_the_object_is_that_of_the_tested_patches(monkeypatch):
    tested = patch_kind(p=0.5)  # rows 0 and 1 are of the class and show it
    marks = np.tile(np.arange(9) < 4, (2, 1))
    off_object = np.tile(np.arange(9) % 4 == 0, (2, 1))  # without the patches of confirmed cues
    patches = InterventionPatches(marks, ~off_object, off_object, np.ones(2, bool))
    asked = []
    context = SimpleNamespace(patches=lambda rows: asked.append(rows.tolist()) or patches)
    monkeypatch.setattr(cue_module, "_examples", lambda *_: ())
    monkeypatch.setattr(cue_module, "images_of", lambda *_: ())
    monkeypatch.setattr(CueDetector, "for_features", lambda self, _: self)
    extractor = SimpleNamespace(model=None, preprocessing=None, detector="sift")
    store = SimpleNamespace(
        index=SimpleNamespace(grid=PatchGrid((3, 3), (9, 9), (3, 3)), labels=np.zeros(4, int)),
        gather=lambda rows: {"keypoints": np.ones((len(rows), 9)), "values": None},
        data=SimpleNamespace(name=str), projection=None, extractor=extractor,
    )  # fmt: skip
    cue = describe_cue(store, tested, no_result(3), context, (9, 1.0), 0.05, 0)
    assert asked == [[0, 1]] and not cue.confirmed
    assert cue.off_object == 1 / 4 and cue.covers == 4 / 9
