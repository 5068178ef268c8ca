"""Metrics of maps in torchmetrics' own collections, merges and processes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from semattn.evaluation.measures import map_functions, measures
from semattn.grid import PatchGrid
from semattn.integrations import map_metric
from semattn.metrics.faithfulness import curves

GRID = PatchGrid((3, 4), (48, 64), (16, 16))


def heat_maps(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random maps, and masks of which the second is empty: its metrics are undefined."""
    rng = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, 12, 16, generator=rng) > 0.7
    mask[1] = False
    return torch.rand(count, 12, 16, generator=rng), mask


def batch(name: str, seed: int, count: int = 3) -> tuple[object, ...]:
    """Return the arguments of an update of a metric."""
    heat_map, mask = heat_maps(count, seed)
    if map_functions[name][0] == "heat_map, mask":
        return heat_map, mask
    if map_functions[name][0] == "patch_map":
        return (heat_map,)
    images = torch.rand(count, 3, 48, 64, generator=torch.Generator().manual_seed(seed))
    scores, target = heat_map[:, :3, :4], torch.zeros(count, dtype=torch.long)
    weights = torch.linspace(-1, 1, 2 * 48 * 64 * 3).reshape(-1, 2) / 100
    predict = lambda x: x.flatten(1) @ weights  # noqa: E731
    return (curves(predict, images, scores, target, grid=GRID, fractions=4, baseline="mean"),)


@pytest.mark.parametrize("name", sorted(map_functions))
def test_a_metric_is_the_mean_of_its_function_over_all_images(name: str) -> None:
    metric, values = map_metric(name), map_metric(name, per_image=True)
    assert isinstance(metric, Metric)
    assert metric.higher_is_better == measures[name].higher_is_better
    expected = torch.cat([map_functions[name][1](*batch(name, seed)) for seed in (1, 2)])
    for seed in (1, 2):
        metric.update(*batch(name, seed))
        values.update(*batch(name, seed))
    torch.testing.assert_close(metric.compute().double(), expected.nanmean(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        values.compute().double(), expected, atol=1e-6, rtol=0, equal_nan=True
    )
    copied = pickle.loads(pickle.dumps(metric))
    assert torch.equal(copied.compute(), metric.compute())
    assert metric.state_dict() == {} and not list(metric.parameters())
    step = metric(*batch(name, 3))  # forward: the value of this batch alone
    alone = map_functions[name][1](*batch(name, 3)).nanmean()
    torch.testing.assert_close(step.double(), alone, atol=1e-6, rtol=0)


def test_a_collection_shares_no_state_between_metrics_that_agree_on_the_first_batch() -> None:
    """torchmetrics merges metrics with equal states, and updates only the first of them."""
    collection = MetricCollection(
        {"strict": map_metric("pointing"), "near": map_metric("pointing", tolerance=5),
         "other": map_metric("energy"), "gini": map_metric("gini")}
    )  # fmt: skip
    mask = torch.zeros(1, 12, 16, dtype=torch.bool)
    mask[:, :4] = True
    inside, below = torch.zeros(1, 12, 16), torch.zeros(1, 12, 16)
    inside[:, 0, 0] = below[:, 6, 0] = 1
    for heat_map in (inside, below):
        collection.update(heat_map=heat_map, mask=mask, patch_map=heat_map)
    assert collection.compute()["strict"] == 0.5 and collection.compute()["near"] == 1
    prefixed = collection.clone(prefix="val/")
    assert set(prefixed.compute()) == {"val/strict", "val/near", "val/other", "val/gini"}
    assert torch.equal(prefixed.compute()["val/near"], collection.compute()["near"])


def test_processes_give_the_mean_over_all_their_images() -> None:
    """Three processes, one without data, through the function that gathers the states."""
    parts = [[map_functions["ap"][1](*batch("ap", seed)).float()] for seed in (1, 2)]
    everything = torch.cat([values for part in parts for values in part])

    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        assert state.shape == (3,)
        return [state, parts[1][0], torch.empty(0)]

    metric = map_metric("ap", dist_sync_fn=gather, distributed_available_fn=lambda: True)
    metric.update(*batch("ap", 1))
    torch.testing.assert_close(metric.compute(), everything.nanmean())
    first, second = map_metric("ap"), map_metric("ap")
    first.update(*batch("ap", 1))
    second.update(*batch("ap", 2))
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), everything.nanmean())


def test_a_metric_without_images_is_nan() -> None:
    metric = map_metric("ap")
    metric.update(*batch("ap", 1))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute().isnan()


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="did you mean 'pointing'"):
        map_metric("pointin")
    with pytest.raises(ValueError, match="tolerance: expected the metric 'pointing', got 'ap'"):
        map_metric("ap", tolerance=2)
