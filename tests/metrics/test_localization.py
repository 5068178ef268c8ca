"""Tests of localization metrics by hand, against scikit-learn and Quantus, and by properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from semattn.errors import ShapeError
from semattn.metrics import localization as metrics
from tests.models import devices

METRICS = (
    metrics.pointing_game, metrics.energy_pointing_game, metrics.energy_over_chance,
    metrics.average_precision, metrics.auroc, metrics.shuffled_auroc, metrics.iou_at_mean,
    metrics.iou_area_matched,
)  # fmt: skip


def random_maps(seed: int, levels: int = 0, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps, with many ties if `levels` is set, and masks that are not empty or full."""
    chance = torch.manual_seed(seed)
    heat_map = torch.rand(count, 9, 11, generator=chance)
    mask = torch.rand(count, 9, 11, generator=chance) > 0.6
    mask[:, 0, 0], mask[:, 0, 1] = True, False
    return ((heat_map * levels).floor() if levels else heat_map), mask


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_areas_match_scikit_learn_with_ties(seed, levels):
    heat_map, mask = random_maps(seed, levels)
    for metric, reference in (
        (metrics.average_precision, average_precision_score),
        (metrics.auroc, roc_auc_score),
    ):
        expected = [
            reference(m.numpy().ravel(), h.numpy().ravel())
            for h, m in zip(heat_map, mask, strict=True)
        ]
        np.testing.assert_allclose(metric(heat_map, mask), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_shuffled_auroc_uses_the_objects_of_other_images(seed, levels):
    heat_map, mask = random_maps(seed, levels)
    actual = metrics.shuffled_auroc(heat_map, mask)
    for i in range(3):
        scores, truth = heat_map[i][mask[i]].tolist(), [1] * int(mask[i].sum())
        for j in range(3):
            if j != i:
                wrong = heat_map[i][mask[j] & ~mask[i]].tolist()
                scores, truth = scores + wrong, truth + [0] * len(wrong)
        assert float(actual[i]) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    with_others = metrics.shuffled_auroc(heat_map[:1], mask[:1], mask[1:])
    torch.testing.assert_close(with_others, actual[:1])


def test_shuffled_auroc_corrects_the_center_bias():
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:5, 2:6], mask[1, 3:6, 2:6] = True, True
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    center = (-((x - 3.5) ** 2) - (y - 3.5) ** 2).expand(2, 8, 8)
    assert metrics.auroc(center, mask).min() > 0.9
    assert metrics.shuffled_auroc(center, mask).max() <= 0.75


def test_by_hand():
    heat_map = torch.tensor([[[4.0, 1.0], [2.0, -1.0]]])
    mask = torch.tensor([[[False, True], [True, False]]])
    assert metrics.pointing_game(heat_map, mask).item() == 0
    assert metrics.pointing_game(heat_map, mask, tolerance=1).item() == 1
    assert metrics.energy_pointing_game(heat_map, mask).item() == pytest.approx(3 / 7)
    assert metrics.energy_over_chance(heat_map, mask).item() == pytest.approx(6 / 7)
    assert metrics.average_precision(heat_map, mask).item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.auroc(heat_map, mask).item() == pytest.approx(0.5)
    assert metrics.iou_at_mean(heat_map, mask).item() == pytest.approx(1 / 3)  # 4 and 2 against 1.5
    assert metrics.iou_area_matched(heat_map, mask).item() == pytest.approx(1 / 3)
    even = torch.ones(1, 2, 2)
    assert metrics.pointing_game(even, mask).item() == 0.5
    assert metrics.average_precision(even, mask).item() == 0.5
    assert metrics.iou_area_matched(even, mask).item() == pytest.approx(1 / 3)  # 1 of 2 by chance
    assert metrics.energy_pointing_game(-even, mask).item() == 0


def test_iou_area_matched_uses_the_top_pixels():
    heat_map, mask = random_maps(9)
    for h, m, iou in zip(heat_map, mask, metrics.iou_area_matched(heat_map, mask), strict=True):
        size = int(m.sum())
        top = torch.zeros(99, dtype=torch.bool)
        top[h.flatten().argsort(descending=True)[:size]] = True
        common = int((top & m.flatten()).sum())
        assert iou.item() == pytest.approx(common / (2 * size - common))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 15))
def test_the_tolerance_matches_pixel_distances(seed, tolerance):
    heat_map = torch.rand(1, 6, 9, generator=torch.manual_seed(seed))
    mask = torch.rand(1, 6, 9, generator=torch.manual_seed(seed + 1)) > 0.95
    mask[0, 2, 3] = True
    top = np.argwhere(heat_map[0].numpy() == heat_map.max().item())
    squared_distance = ((np.argwhere(mask[0].numpy())[:, None] - top[None]) ** 2).sum(-1)
    expected = (squared_distance.min(axis=0) <= tolerance**2).mean()
    assert metrics.pointing_game(heat_map, mask, tolerance).item() == expected


def test_the_tolerance_is_a_disc():
    heat_map = torch.zeros(1, 9, 9)
    heat_map[0, 4, 4] = 1
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 1, 4] = True
    scores = [
        metrics.pointing_game(heat_map, mask, tolerance=tolerance).item() for tolerance in (0, 2, 3)
    ]
    assert scores == [0, 0, 1]
    mask = torch.zeros(1, 9, 9, dtype=torch.bool)
    mask[0, 1, 1] = True  # 4.2 pixels away
    scores = [
        metrics.pointing_game(heat_map, mask, tolerance=tolerance).item() for tolerance in (3, 4, 5)
    ]
    assert scores == [0, 0, 1]


@pytest.mark.parametrize("transform", [lambda x: x**3 + 2, torch.exp, lambda x: 7 * x - 3])
@pytest.mark.parametrize(
    "metric",
    [
        metrics.pointing_game, metrics.average_precision, metrics.auroc, metrics.shuffled_auroc,
        metrics.iou_area_matched,
    ],
)  # fmt: skip
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), levels=st.integers(0, 4))
def test_rank_metrics_are_invariant_to_monotonic_transforms(metric, transform, seed, levels):
    heat_map, mask = random_maps(seed, levels)
    assert torch.equal(metric(heat_map, mask), metric(transform(heat_map.double()), mask))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_areas_of_a_map_and_its_negative_sum_to_one(seed, levels):
    heat_map, mask = random_maps(seed, levels)
    for metric in (metrics.auroc, metrics.shuffled_auroc):
        torch.testing.assert_close(
            metric(heat_map, mask) + metric(-heat_map, mask), torch.ones(3).double()
        )
    # Energy is either on or off the object.
    torch.testing.assert_close(
        metrics.energy_pointing_game(heat_map + 1, mask),
        1 - metrics.energy_pointing_game(heat_map + 1, ~mask),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(-9, 9))
def test_a_uniform_map_is_exactly_at_chance(seed, value):
    """For any value, although the mean of equal numbers may be rounded."""
    _, mask = random_maps(seed)
    area = mask.double().mean(dim=(1, 2))
    uniform = torch.full(mask.shape, value, dtype=torch.double)
    for metric in (metrics.average_precision, metrics.pointing_game):
        torch.testing.assert_close(metric(uniform, mask), area)
    for metric in (metrics.auroc, metrics.shuffled_auroc):
        torch.testing.assert_close(metric(uniform, mask), torch.full((3,), 0.5).double())
    torch.testing.assert_close(metrics.iou_area_matched(uniform, mask), area / (2 - area))
    assert metrics.iou_at_mean(uniform, mask).tolist() == [0, 0, 0]
    if value > 0:
        torch.testing.assert_close(
            metrics.energy_over_chance(uniform, mask), torch.ones(3, dtype=torch.double)
        )


def test_images_are_independent():
    heat_map, mask = random_maps(11, levels=3)
    for metric in METRICS:
        if metric is not metrics.shuffled_auroc:
            single = torch.cat([metric(heat_map[i : i + 1], mask[i : i + 1]) for i in range(3)])
            assert torch.equal(metric(heat_map, mask), single), metric.__name__


def test_the_best_and_the_worst_map():
    _, mask = random_maps(12)
    best = mask.double()
    for metric in METRICS:
        if metric is not metrics.energy_over_chance:
            torch.testing.assert_close(metric(best, mask), torch.ones(3, dtype=torch.double))
        if metric is not metrics.average_precision:
            assert metric(1 - best, mask).tolist() == [0, 0, 0], metric.__name__
    torch.testing.assert_close(
        metrics.energy_over_chance(best, mask), 1 / mask.double().mean(dim=(1, 2))
    )


def test_shuffled_auroc_is_nan_without_pixels_of_other_objects():
    heat_map, mask = random_maps(13)
    assert metrics.shuffled_auroc(heat_map[:1], mask[:1]).isnan().all(), "no other image"
    assert metrics.shuffled_auroc(heat_map[:1], mask[:1], mask[:1]).isnan().all()
    with pytest.raises(ShapeError, match="others: expected masks .M, 9, 11., got .3, 9, 10."):
        metrics.shuffled_auroc(heat_map, mask, mask[:, :, :-1])


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance: expected at least 0 pixels, got -1"):
        metrics.pointing_game(*random_maps(0), tolerance=-1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("device", devices())
def test_maps_of_all_dtypes_are_accepted(device, dtype):
    heat_map, mask = random_maps(14, levels=4)
    for metric in METRICS:
        assert torch.equal(
            metric(heat_map.to(device, dtype), mask.to(device)), metric(heat_map, mask)
        )
    with_others = metrics.shuffled_auroc(
        heat_map.to(device, dtype), mask.to(device), mask.to(device)
    )
    assert torch.equal(with_others, metrics.shuffled_auroc(heat_map, mask, mask))


def test_metrics_are_nan_for_empty_and_full_masks():
    heat_map, mask = random_maps(0)
    mask[0], mask[1] = False, True
    for metric in METRICS:
        values = metric(heat_map, mask)
        assert values.dtype == torch.float64 and values.isnan().tolist() == [True, True, False]


def test_a_random_map_is_at_chance():
    heat_map, _ = random_maps(5, count=400)
    mask = torch.zeros(400, 9, 11, dtype=torch.bool)
    mask[:, :3, :4] = True
    area = 12 / 99
    # Four times the standard error of the mean of 400 draws, each of 12 against 87 pixels.
    assert metrics.auroc(heat_map, mask).mean().item() == pytest.approx(0.5, abs=0.018)
    assert metrics.energy_over_chance(heat_map, mask).mean().item() == pytest.approx(1, abs=0.035)
    assert metrics.pointing_game(heat_map, mask).mean().item() == pytest.approx(area, abs=0.066)
    large = torch.rand(1, 300, 300, generator=torch.manual_seed(6))
    object_ = torch.zeros(1, 300, 300, dtype=torch.bool)
    object_[:, :100, :90] = True
    assert metrics.average_precision(large, object_).item() == pytest.approx(0.1, abs=0.004)


def test_quantus_agrees():
    quantus = pytest.importorskip("quantus")
    heat_map, mask = random_maps(7, count=4)
    arguments = {
        "model": None, "x_batch": np.zeros((4, 3, 9, 11), np.float32), "y_batch": np.zeros(4, int),
        "a_batch": heat_map[:, None].numpy(), "s_batch": mask[:, None].numpy(), "device": "cpu",
    }  # fmt: skip
    options = {
        "disable_warnings": True,
        "display_progressbar": False,
        "normalise": False,
        "abs": False,
    }
    for reference, metric in (
        (quantus.PointingGame(**options), metrics.pointing_game),
        (quantus.RelevanceMassAccuracy(**options), metrics.energy_pointing_game),
        (quantus.AttributionLocalisation(**options), metrics.energy_pointing_game),
        (quantus.AUC(**options), metrics.auroc),
    ):
        np.testing.assert_allclose(
            np.array(reference(**arguments), float), metric(heat_map, mask), atol=1e-6
        )
    # Quantus has one k for all images; here k is the number of object pixels of each image.
    for h, m, iou in zip(heat_map, mask, metrics.iou_area_matched(heat_map, mask), strict=True):
        arguments |= {"x_batch": np.zeros((1, 3, 9, 11), np.float32), "y_batch": np.zeros(1, int)}
        arguments |= {"a_batch": h[None, None].numpy(), "s_batch": m[None, None].numpy()}
        (part,) = quantus.TopKIntersection(k=int(m.sum()), **options)(**arguments)
        assert iou.item() == pytest.approx(part / (2 - part), abs=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_invalid_arguments_are_refused_in_one_line(metric):
    heat_map, mask = random_maps(0)
    for arguments in ((heat_map[:2], mask), (heat_map, mask.float()), (heat_map[0], mask[0])):
        with pytest.raises(ShapeError, match="heat_map, mask: expected") as error:
            metric(*arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="heat_map: expected finite numbers"):
        metric(heat_map.where(heat_map < heat_map.max(), torch.nan), mask)
