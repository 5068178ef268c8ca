"""Which recurring marks are the object of their images, or a part of it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semattn.grid import PatchGrid
from semattn.spurious.marks import candidates
from semattn.spurious.marks.recurring import MarkSearchResult, RecurringMark
from semattn.spurious.marks.template import Region

GRID = PatchGrid((16, 16), (224, 224), (14, 14), 1)
IMAGES = 5
MARK = (slice(6, 9), slice(6, 9))  # rows and columns of the patches of the mark
OBJECT = (slice(11, 16), slice(0, 16))  # those of a salient region elsewhere


@dataclass
class Model:
    """Probabilities of the class in images without the mark, and in erased ones."""

    without: float
    erased: float

    def probability(self, inputs: torch.Tensor) -> float:
        """Return that of images of the store, which are 1, or of erased ones, which are 0."""
        return self.without if inputs.mean() > 0.5 else self.erased


def is_object(*salient: tuple[slice, slice], model=None, others: int = 8) -> bool:
    """Return the answer for a mark at `MARK` and images whose salient patches are given."""
    patches, objectness = np.zeros((2, IMAGES, *GRID.shape))
    patches[(slice(None), *MARK)] = 1
    for part in salient:
        objectness[(slice(None), *part)] = 1
    store = SimpleNamespace(
        index=SimpleNamespace(grid=GRID),
        gather=lambda rows: {"objectness": objectness.reshape(IMAGES, -1)[rows]},
        inputs=lambda rows: torch.ones(len(rows), 3, *GRID.image_size),
        extractor=SimpleNamespace(model=model), batch_size=2,
    )  # fmt: skip
    rows = np.arange(IMAGES + others)
    candidate = SimpleNamespace(
        cue_rows=rows[:IMAGES], rows=rows, in_class=rows >= 0, shown=rows < IMAGES, target=3,
        patches=lambda _store, rows: patches.reshape(IMAGES, -1)[rows].astype(bool),
        masks=lambda _store, rows: np.zeros((len(rows), *GRID.image_size), bool),
    )  # fmt: skip
    return candidates.is_object(store, candidate)


@pytest.fixture
def recognition(monkeypatch):
    """Replace the forward pass, and the inpainting of pixels."""

    def log_odds(model, inputs, classes):
        assert (classes == 3).all() and len(classes) == len(inputs) <= 2
        return torch.tensor(model.probability(inputs)).logit().expand(len(inputs))

    monkeypatch.setattr(candidates, "class_log_odds", log_odds)
    monkeypatch.setattr(candidates, "move_to_model", lambda _, inputs, **__: inputs)
    monkeypatch.setattr(
        candidates, "erase",
        lambda _, rows, masks: (None, torch.zeros(len(rows), 3, *masks.shape[1:])),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "salient"),
    [
        (True, [MARK]),  # the mark is the object
        (True, [(slice(4, 11), slice(4, 11))]),  # a part of the object
        (False, [OBJECT]),  # beside the object
        (False, [MARK, OBJECT]),  # salient, beside the object
        (False, [(slice(0, 9), slice(0, 16))]),  # in an image that the object fills
    ],
)
@pytest.mark.parametrize("others", [4, 8])
def test_a_mark_that_is_mostly_the_object_or_inside_it_is_none(
    expected, salient, others, recognition
):
    model = Model(without=0.9, erased=0.1)
    assert is_object(*salient, model=model, others=others) is expected


@pytest.mark.parametrize(
    ("expected", "without", "erased"),
    [
        (True, 0.9, 0.62),  # the class is lost with it
        (False, 0.9, 0.64),  # the class is recognised without it: it drew the salience
        (False, 0.2, 0.15),  # the model depends on it in all images
    ],
)
def test_a_salient_mark_is_the_object_if_the_class_is_lost_without_it(
    expected, without, erased, recognition
):
    assert is_object(MARK, model=Model(without, erased)) is expected
    # Of half of the salience, or of all of it with too few other images to compare with
    half = (slice(12, 15), slice(1, 4))
    assert is_object(MARK, half, model=Model(without, erased)) is expected
    assert is_object(MARK, model=Model(without, erased), others=4)
    assert not is_object(MARK, half, model=Model(without, erased), others=4)


def test_only_as_many_marks_are_judged_as_are_kept(monkeypatch):
    def mark(number: int, target: int):
        return RecurringMark(None, {number: []}, target, p=1e-5 * (1 + number))

    marks = [mark(number, target=number % 3) for number in range(18)] + [mark(10**6, 0)]
    judged = []

    def is_object(_, candidate):
        judged.append(next(iter(candidate.mark.regions)))
        return judged[-1] in (0, 4)

    result = MarkSearchResult(marks, 7, [(1, 2)])
    monkeypatch.setattr(candidates, "find_recurring_marks", lambda *_: result)
    monkeypatch.setattr(candidates, "local_features", lambda keypoints: keypoints)
    monkeypatch.setattr(candidates, "is_object", is_object)
    store = type("Store", (), {
        "index": SimpleNamespace(grid=GRID, labels=np.arange(20) % 3), "progress": None,
        "keypoints": lambda self, rows: rows, "__len__": lambda self: 20,
    })()  # fmt: skip
    found, n_tests, n_scenes = candidates.find_mark_candidates(store, 0.05, [0, 1], most=2)
    assert (n_tests, n_scenes) == (7, 1)
    assert [next(iter(candidate.mark.regions)) for candidate in found] == [1, 3, 6, 7]
    assert judged == [0, 3, 6, 1, 4, 7]


def test_the_clearest_images_have_the_most_matches():
    regions = {
        row: [Region(np.zeros((3, 2)), np.eye(2, 3), matches, False)]
        for row, matches in enumerate((9, 5, 7, 1))
    }
    mark = RecurringMark(None, regions, target=0, p=0.001)
    candidate = candidates.MarkCandidate(mark, np.arange(6), np.zeros(6, int))
    assert candidate.is_clear(np.arange(4)).tolist() == [True, False, True, False]
    assert candidate.is_clear(np.array([3])).tolist() == [True]
