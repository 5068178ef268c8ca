"""Whether a map points at the object: by hand, by scikit-learn, by Quantus, by properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from semattn.errors import ShapeError
from semattn.metrics import localization as metrics
from tests.models import devices

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


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 15))
def test_what_is_near_is_measured_pixel_by_pixel(seed, tolerance):
    heat = torch.rand(1, 6, 9, generator=torch.manual_seed(seed))
    mask = torch.rand(1, 6, 9, generator=torch.manual_seed(seed + 1)) > 0.95
    mask[0, 2, 3] = True
    top = np.argwhere(heat[0].numpy() == heat.max().item())
    apart = ((np.argwhere(mask[0].numpy())[:, None] - top[None]) ** 2).sum(-1)
    wanted = (apart.min(axis=0) <= tolerance**2).mean()
    assert metrics.pointing_game(heat, mask, tolerance).item() == wanted


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


@pytest.mark.parametrize("rise", [lambda x: x**3 + 2, torch.exp, lambda x: 7 * x - 3])
@pytest.mark.parametrize(
    "one",
    [
        metrics.pointing_game, metrics.average_precision, metrics.auroc, metrics.shuffled_auroc,
        metrics.iou_area_matched,
    ],
)  # fmt: skip
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), levels=st.integers(0, 4))
def test_ranks_alone_count_where_they_should(one, rise, seed, levels):
    heat, mask = drawn(seed, levels)
    assert torch.equal(one(heat, mask), one(rise(heat.double()), mask))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_the_other_way_round_areas_are_one_apart(seed, levels):
    heat, mask = drawn(seed, levels)
    for one in (metrics.auroc, metrics.shuffled_auroc):
        torch.testing.assert_close(one(heat, mask) + one(-heat, mask), torch.ones(3).double())
    # What lies on the object is not off it.
    torch.testing.assert_close(
        metrics.energy_pointing_game(heat + 1, mask),
        1 - metrics.energy_pointing_game(heat + 1, ~mask),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-9, 9))
def test_an_even_map_is_exactly_at_chance(seed, value):
    """Whatever its value: the mean of equal numbers may be rounded to another."""
    _, mask = drawn(seed)
    area = mask.double().mean(dim=(1, 2))
    even = torch.full(mask.shape, value, dtype=torch.double)
    for one in (metrics.average_precision, metrics.pointing_game):
        torch.testing.assert_close(one(even, mask), area)
    for one in (metrics.auroc, metrics.shuffled_auroc):
        torch.testing.assert_close(one(even, mask), torch.full((3,), 0.5).double())
    torch.testing.assert_close(metrics.iou_area_matched(even, mask), area / (2 - area))
    assert metrics.iou_at_mean(even, mask).tolist() == [0, 0, 0]
    if value > 0:
        torch.testing.assert_close(
            metrics.energy_over_chance(even, mask), torch.ones(3, dtype=torch.double)
        )


def test_an_image_counts_for_itself_alone():
    heat, mask = drawn(11, levels=3)
    for one in EVERY:
        if one is not metrics.shuffled_auroc:
            alone = torch.cat([one(heat[i : i + 1], mask[i : i + 1]) for i in range(3)])
            assert torch.equal(one(heat, mask), alone), one.__name__


def test_the_best_and_the_worst_map():
    _, mask = drawn(12)
    best = mask.double()
    for one in EVERY:
        if one is not metrics.energy_over_chance:
            torch.testing.assert_close(one(best, mask), torch.ones(3, dtype=torch.double))
        if one is not metrics.average_precision:
            assert one(1 - best, mask).tolist() == [0, 0, 0], one.__name__
    torch.testing.assert_close(
        metrics.energy_over_chance(best, mask), 1 / mask.double().mean(dim=(1, 2))
    )


def test_others_that_lie_on_the_object_alone_tell_nothing():
    heat, mask = drawn(13)
    assert metrics.shuffled_auroc(heat[:1], mask[:1]).isnan().all(), "there is no other"
    assert metrics.shuffled_auroc(heat[:1], mask[:1], mask[:1]).isnan().all()
    with pytest.raises(ShapeError, match="others: expected masks .M, 9, 11., got .3, 9, 10."):
        metrics.shuffled_auroc(heat, mask, mask[:, :, :-1])


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance: expected 0 pixels at least, got -1"):
        metrics.pointing_game(*drawn(0), tolerance=-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("device", devices())
def test_maps_of_every_kind_are_taken(device, dtype):
    heat, mask = drawn(14, levels=4)
    for one in EVERY:
        assert torch.equal(one(heat.to(device, dtype), mask.to(device)), one(heat, mask))
    given_ = metrics.shuffled_auroc(heat.to(device, dtype), mask.to(device), mask.to(device))
    assert torch.equal(given_, metrics.shuffled_auroc(heat, mask, mask))


def test_nothing_is_told_without_an_object_or_without_anything_else():
    heat, mask = drawn(0)
    mask[0], mask[1] = False, True
    for one in EVERY:
        found = one(heat, mask)
        assert found.dtype == torch.float64 and found.isnan().tolist() == [True, True, False]


def test_a_map_at_random_is_at_chance():
    heat, _ = drawn(5, count=400)
    mask = torch.zeros(400, 9, 11, dtype=torch.bool)
    mask[:, :3, :4] = True
    area = 12 / 99
    # Four times the standard error of the mean of 400 draws, each of 12 against 87 pixels.
    assert metrics.auroc(heat, mask).mean().item() == pytest.approx(0.5, abs=0.018)
    assert metrics.energy_over_chance(heat, mask).mean().item() == pytest.approx(1, abs=0.035)
    assert metrics.pointing_game(heat, mask).mean().item() == pytest.approx(area, abs=0.066)
    large = torch.rand(1, 300, 300, generator=torch.manual_seed(6))
    object_ = torch.zeros(1, 300, 300, dtype=torch.bool)
    object_[:, :100, :90] = True
    assert metrics.average_precision(large, object_).item() == pytest.approx(0.1, abs=0.004)


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
        (quantus.AttributionLocalisation(**quiet), metrics.energy_pointing_game),
        (quantus.AUC(**quiet), metrics.auroc),
    ):
        np.testing.assert_allclose(np.array(theirs(**given_), float), ours(heat, mask), atol=1e-6)
    # As many of the greatest as the object has pixels: k is theirs, one for all images.
    for h, m, found in zip(heat, mask, metrics.iou_area_matched(heat, mask), strict=True):
        given_ |= {"x_batch": np.zeros((1, 3, 9, 11), np.float32), "y_batch": np.zeros(1, int)}
        given_ |= {"a_batch": h[None, None].numpy(), "s_batch": m[None, None].numpy()}
        (part,) = quantus.TopKIntersection(k=int(m.sum()), **quiet)(**given_)
        assert found.item() == pytest.approx(part / (2 - part), abs=1e-6)


@pytest.mark.parametrize("one", EVERY)
def test_what_does_not_fit_is_said_in_one_line(one):
    heat, mask = drawn(0)
    for wrong in ((heat[:2], mask), (heat, mask.float()), (heat[0], mask[0])):
        with pytest.raises(ShapeError, match="heat, mask: expected") as error:
            one(*wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="heat: expected finite numbers"):
        one(heat.where(heat < heat.max(), torch.nan), mask)
