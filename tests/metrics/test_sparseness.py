"""Tests of Gini index and entropy by hand, against slow loops and Quantus."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.errors import ShapeError
from semattn.metrics.localization import complexity, gini
from tests.models import devices


def random_values(seed: int) -> torch.Tensor:
    values = torch.randn(4, 5, 6, generator=torch.manual_seed(seed), dtype=torch.double)
    values[1] = values[1].round()
    return values


def test_by_hand():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, -5.0, 0.0], [2.0, 2.0, 2.0, -2.0]])
    # 1 − 2 (.1 · 3.5 + .2 · 2.5 + .3 · 1.5 + .4 · .5) / 4
    assert gini(values).tolist() == pytest.approx([0.25, 0.75, 0])
    parts = -sum(part * math.log(part) for part in (0.1, 0.2, 0.3, 0.4))
    assert complexity(values).tolist() == pytest.approx([parts, 0, math.log(4)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_gini_is_half_the_mean_difference_over_the_mean(seed):
    values = random_values(seed)
    for magnitudes, actual in zip(values.flatten(1).abs().numpy(), gini(values), strict=True):
        pairs = np.abs(magnitudes[:, None] - magnitudes[None]).mean() / (2 * magnitudes.mean())
        assert actual.item() == pytest.approx(pairs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_both_are_invariant_to_scale_sign_and_order(seed, scale):
    values = random_values(seed)
    place = torch.randperm(30, generator=torch.manual_seed(seed))
    other = -scale * values.flatten(1)[:, place]
    for metric in (gini, complexity):
        torch.testing.assert_close(metric(values), metric(other))
    # Each value twice: as sparse, and log 2 more complex.
    twice = torch.cat([values, values], dim=2)
    torch.testing.assert_close(gini(twice), gini(values))
    torch.testing.assert_close(complexity(twice), complexity(values) + math.log(2))


def test_zero_and_nan_maps():
    values = torch.tensor([[0.0, 0.0], [1.0, torch.nan]])
    assert gini(values)[0] == 0 and gini(values)[1].isnan()
    assert complexity(values).isnan().all()
    for metric in (gini, complexity):
        with pytest.raises(ShapeError, match="values: expected .B, …., got .2,. — pass one map as"):
            metric(values[0])


@pytest.mark.parametrize("device", devices())
def test_half_precision_is_computed_in_double(device):
    values = torch.ones(1, 300, 300, dtype=torch.float16, device=device)
    assert complexity(values).item() == pytest.approx(math.log(90_000))
    assert gini(values).item() == pytest.approx(0, abs=1e-12)


def test_quantus_agrees():
    quantus = pytest.importorskip("quantus")
    values = random_values(8).abs().float()
    options = {"disable_warnings": True, "display_progressbar": False, "normalise": False}
    arguments = {
        "model": None, "x_batch": np.zeros((4, 3, 5, 6), np.float32), "y_batch": np.zeros(4, int),
        "a_batch": values[:, None].numpy(), "device": "cpu",
    }  # fmt: skip
    expected = np.array(quantus.Complexity(**options)(**arguments))
    np.testing.assert_allclose(expected, complexity(values), atol=1e-5)
    # Quantus adds a small number to each value
    expected = np.array(quantus.Sparseness(**options)(**arguments))
    np.testing.assert_allclose(expected, gini(values), atol=1e-4)
