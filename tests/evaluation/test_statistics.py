"""Intervals, paired tests and Holm's correction, against definitions and scipy."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from semattn.utils.statistics import difference, estimate, holm, sign_flip


def test_interval_equals_that_of_scipys_bootstrap():
    values = np.random.default_rng(3).exponential(size=40)
    interval = estimate(values, n_bootstrap=20_000)
    chance = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile",
        **{chance: np.random.default_rng(5)},
    ).confidence_interval  # fmt: skip
    assert interval.mean == pytest.approx(values.mean()) and interval.count == 40
    assert interval.low == pytest.approx(expected.low, abs=0.02)
    assert interval.high == pytest.approx(expected.high, abs=0.02)


def test_images_without_a_value_are_left_out_of_both_of_a_pair():
    first, second = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.0, 5.0, np.nan, 1.0])
    paired = difference(first, second)
    assert paired.count == 2 and paired.mean == 2.0
    none = difference(np.full(3, np.nan), np.zeros(3))
    assert none.count == 0 and np.isnan(none.mean) and none.p == 1


def test_sign_flip_test_equals_the_exact_test():
    """Compare the random sign-flip test with all 256 signs of eight images."""
    pairs = np.array([0.3, 0.5, -0.2, 0.9, 0.4, 0.1, -0.05, 0.6])
    all_means = [abs(np.mean(pairs * signs)) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.array(all_means) >= abs(pairs.mean()) - 1e-12)
    paired = difference(pairs, np.zeros(8), n_bootstrap=40_000)
    assert paired.p == pytest.approx(exact, abs=0.005)
    assert difference(-pairs, np.zeros(8), n_bootstrap=40_000).p == paired.p
    assert difference(np.zeros(8), np.zeros(8)).p == 1
    assert sign_flip(np.ones(60), n_permutations=99) == 1 / 100, "the data count as one draw"


def test_null_differences_are_rejected_at_the_level():
    rng = np.random.default_rng(0)
    rejections = [
        difference(rng.normal(size=20), rng.normal(size=20), seed, n_bootstrap=400).p < 0.05
        for seed in range(600)
    ]
    low, high = stats.binom.interval(0.999, 600, 0.05)
    assert low <= sum(rejections) <= high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_its_definition(p):
    corrected_values = holm(p)
    ranked = sorted(p)
    for p_value, corrected in zip(p, corrected_values, strict=True):
        steps = [(len(p) - k) * ranked[k] for k in range(len(p)) if ranked[k] <= p_value]
        assert corrected == pytest.approx(min(1.0, max(steps)), abs=1e-12)
        assert corrected >= p_value
