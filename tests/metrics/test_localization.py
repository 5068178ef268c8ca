"""Whether a map points at the object: by hand, by scikit-learn, by Quantus, by properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from semattn.errors import ShapeError
from semattn.metrics import localization as metrics

EVERY = (
    metrics.pointing_game, metrics.energy_pointing_game, metrics.energy_over_chance,
    metrics.average_precision, metrics.auroc, metrics.shuffled_auroc, metrics.iou_at_mean,
    metrics.iou_area_matched,
)  # fmt: skip


def drawn(seed: int, levels: int = 0, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps, with many equals where `levels` is set, and masks that are neither empty nor full."""
    chance = torch.manual_seed(seed)
    heat = torch.rand(count, 9, 11, generator=chance)
    mask = torch.rand(count, 9, 11, generator=chance) > 0.6
    mask[:, 0, 0], mask[:, 0, 1] = True, False
    return ((heat * levels).floor() if levels else heat), mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_areas_are_those_of_scikit_learn_ties_and_all(seed, levels):
    heat, mask = drawn(seed, levels)
    for ours, theirs in (
        (metrics.average_precision, average_precision_score),
        (metrics.auroc, roc_auc_score),
    ):
        wanted = [
            theirs(m.numpy().ravel(), h.numpy().ravel()) for h, m in zip(heat, mask, strict=True)
        ]
        np.testing.assert_allclose(ours(heat, mask), wanted, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_the_shuffled_one_repeats_the_pixels_of_the_others(seed, levels):
    heat, mask = drawn(seed, levels)
    found = metrics.shuffled_auroc(heat, mask)
    for i in range(3):
        scores, truth = heat[i][mask[i]].tolist(), [1] * int(mask[i].sum())
        for j in range(3):
            if j != i:
                wrong = heat[i][mask[j] & ~mask[i]].tolist()
                scores, truth = scores + wrong, truth + [0] * len(wrong)
        assert float(found[i]) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    given_ = metrics.shuffled_auroc(heat[:1], mask[:1], mask[1:])
    torch.testing.assert_close(given_, found[:1])


def test_the_centre_wins_nothing_where_all_objects_are_there():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 2:6], mask[1, 3:6, 2:6] = True, True
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    center = (-((x - 3.5) ** 2) - (y - 3.5) ** 2).expand(2, 8, 8)
    assert metrics.auroc(center, mask).min() > 0.9
    assert metrics.shuffled_auroc(center, mask).max() <= 0.75


def test_by_hand():
    heat = torch.tensor([[[4.0, 1.0], [2.0, -1.0]]])
    mask = torch.tensor([[[False, True], [True, False]]])
    assert metrics.pointing_game(heat, mask).item() == 0
    assert metrics.pointing_game(heat, mask, tolerance=1).item() == 1
    assert metrics.energy_pointing_game(heat, mask).item() == pytest.approx(3 / 7)
    assert metrics.energy_over_chance(heat, mask).item() == pytest.approx(6 / 7)
    assert metrics.average_precision(heat, mask).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.auroc(heat, mask).item() == pytest.approx(0.5)
    assert metrics.iou_at_mean(heat, mask).item() == pytest.approx(1 / 3)  # 4 and 2 against 1.5
    assert metrics.iou_area_matched(heat, mask).item() == pytest.approx(1 / 3)
    even = torch.ones(1, 2, 2)
    assert metrics.pointing_game(even, mask).item() == 0.5
    assert metrics.average_precision(even, mask).item() == 0.5
    assert metrics.iou_area_matched(even, mask).item() == pytest.approx(1 / 3)  # 1 of 2 by chance
    assert metrics.energy_pointing_game(-even, mask).item() == 0


def test_the_area_is_matched_by_the_greatest_pixels():
    heat, mask = drawn(9)
    for h, m, found in zip(heat, mask, metrics.iou_area_matched(heat, mask), strict=True):
        size = int(m.sum())
        top = torch.zeros(99, dtype=torch.bool)
        top[h.flatten().argsort(descending=True)[:size]] = True
        common = int((top & m.flatten()).sum())
        assert found.item() == pytest.approx(common / (2 * size - common))


def test_the_tolerance_is_a_disc():
    heat = torch.zeros(1, 9, 9)
    heat[0, 4, 4] = 1
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 1, 4] = True
    said = [metrics.pointing_game(heat, mask, tolerance=one).item() for one in (0, 2, 3)]
    assert said == [0, 0, 1]
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 1, 1] = True  # 4.2 pixels away
    said = [metrics.pointing_game(heat, mask, tolerance=one).item() for one in (3, 4, 5)]
    assert said == [0, 0, 1]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_ranks_alone_count_where_they_should(seed):
    heat, mask = drawn(seed)
    for one in (metrics.average_precision, metrics.auroc, metrics.iou_area_matched):
        torch.testing.assert_close(one(heat, mask), one(heat.double().pow(3) + 2, mask))


def test_nothing_is_told_without_an_object_or_without_anything_else():
    heat, mask = drawn(0)
    mask[0], mask[1] = False, True
    for one in EVERY:
        found = one(heat, mask)
        assert found.dtype == torch.float64 and found.isnan().tolist() == [True, True, False]


def test_a_map_at_random_is_at_chance():
    heat, _ = drawn(5, count=40)
    mask = torch.zeros(40, 9, 11, dtype=torch.bool)
    mask[:, :3, :4] = True
    assert metrics.auroc(heat, mask).mean().item() == pytest.approx(0.5, abs=0.06)
    assert metrics.energy_over_chance(heat, mask).mean().item() == pytest.approx(1, abs=0.06)


def test_quantus_agrees():
    quantus = pytest.importorskip("quantus")
    heat, mask = drawn(7, count=4)
    given_ = {
        "model": None, "x_batch": np.zeros((4, 3, 9, 11), np.float32), "y_batch": np.zeros(4, int),
        "a_batch": heat[:, None].numpy(), "s_batch": mask[:, None].numpy(), "device": "cpu",
    }  # fmt: skip
    quiet = {
        "disable_warnings": True,
        "display_progressbar": False,
        "normalise": False,
        "abs": False,
    }
    for theirs, ours in (
        (quantus.PointingGame(**quiet), metrics.pointing_game),
        (quantus.RelevanceMassAccuracy(**quiet), metrics.energy_pointing_game),
        (quantus.AUC(**quiet), metrics.auroc),
    ):
        np.testing.assert_allclose(np.array(theirs(**given_), float), ours(heat, mask), atol=1e-6)


@pytest.mark.parametrize("one", EVERY)
def test_what_does_not_fit_is_said_in_one_line(one):
    heat, mask = drawn(0)
    for wrong in ((heat[:2], mask), (heat, mask.float()), (heat[0], mask[0])):
        with pytest.raises(ShapeError, match="heat, mask: expected") as error:
            one(*wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="heat: expected finite numbers"):
        one(heat.where(heat < heat.max(), torch.nan), mask)
