"""Which images give a mark, which get it, and what is compared."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semattn.grid import PatchGrid
from semattn.spurious.interventions import InterventionPatches
from semattn.spurious.marks import interventions

GRID = PatchGrid((4, 4), (16, 16), (4, 4), 1)
MARKED, OTHERS = 6, 40  # rows of class 0 with the mark, and of class 1 without


def run(monkeypatch, effect: float, is_source=None):
    """Run both interventions; the model's answer is the mean of the input times `effect`."""

    def answers(_context, images, _target):
        odds = effect * images.mean(dim=(1, 2, 3)).numpy()
        return np.stack([odds, odds, -odds, 0 * odds], axis=1)

    monkeypatch.setattr(interventions, "class_answers", answers)
    masks = np.zeros((MARKED, 16, 16), bool)
    masks[:, 4:8, 4:8] = True
    taken = []

    def patches(rows):
        nothing = np.zeros((len(rows), 16), bool)
        on_object = nothing.copy()
        on_object[:, 5] = rows % 2 == 1  # the object of odd rows is where the mark is
        return InterventionPatches(nothing, on_object, ~on_object, ~nothing[:, 0])

    def erase(rows, of_rows):
        images = torch.ones(len(rows), 1, 16, 16)
        covered = torch.from_numpy(of_rows)[:, None] & torch.from_numpy(masks[:1])[:, None]
        return images, images - covered.float()

    def transplant(sources, receivers):
        taken.append((sources, receivers))
        plain = torch.zeros(len(sources), 1, 16, 16)
        return plain + torch.from_numpy(masks[:1])[:, None].float(), plain

    labels = np.repeat([0, 1], [MARKED, OTHERS])
    context = SimpleNamespace(patches=patches, grid=GRID, labels=labels)
    result = interventions.run_mark_interventions(
        context, 0, np.arange(MARKED), masks, np.arange(MARKED, MARKED + OTHERS), erase, transplant,
        seed=0, is_source=is_source,
    )  # fmt: skip
    return result, taken


def test_the_mark_is_drawn_off_the_object_of_other_images(monkeypatch):
    result, [(sources, receivers)] = run(monkeypatch, 16.0)
    assert set(sources) == set(range(MARKED)) and len(sources) == interventions.N_RECEIVERS
    assert len(set(receivers)) == len(receivers) and receivers.min() >= MARKED
    assert (receivers % 2 == 0).sum() == (OTHERS + 1) // 2  # all whose object is elsewhere
    np.testing.assert_allclose(result.transplant, 1.0)  # 1 of 16 patches times 16
    assert np.isnan(result.transplant_by_class[:, 1]).all()  # the own class of the receivers
    np.testing.assert_allclose(result.before, 16.0)
    assert (result.removal > 0).all() and result.rows.tolist() == list(range(MARKED))


def test_only_sources_give_the_mark(monkeypatch):
    is_source = np.array([True, False, False, True, False, False])
    _, [(sources, receivers)] = run(monkeypatch, 16.0, is_source)
    assert set(sources) == {0, 3} and len(receivers) == interventions.N_RECEIVERS


@pytest.mark.parametrize("effect", [0.0, -16.0])
def test_removal_is_not_tried_if_the_transplant_has_no_effect(monkeypatch, effect):
    result, _ = run(monkeypatch, effect)
    assert np.isnan(result.removal).all() and np.isfinite(result.before).all()
