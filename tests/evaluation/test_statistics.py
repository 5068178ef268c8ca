"""Intervals, paired tests and Holm's correction, against definitions and scipy."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from semattn.utils.statistics import difference, estimate, holm, sign_flip


def test_an_interval_is_that_of_the_bootstrap():
    values = np.random.default_rng(3).exponential(size=40)
    found = estimate(values, draws=20_000)
    chance = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile",
        **{chance: np.random.default_rng(5)},
    ).confidence_interval  # fmt: skip
    assert found.mean == pytest.approx(values.mean()) and found.count == 40
    assert found.low == pytest.approx(theirs.low, abs=0.02)
    assert found.high == pytest.approx(theirs.high, abs=0.02)


def test_images_without_a_value_are_left_out_of_both_of_a_pair():
    one, other = np.array([1.0, np.nan, 3.0, 4.0]), np.array([0.0, 5.0, np.nan, 1.0])
    found = difference(one, other)
    assert found.count == 2 and found.mean == 2.0
    none = difference(np.full(3, np.nan), np.zeros(3))
    assert none.count == 0 and np.isnan(none.mean) and none.p == 1


def test_the_test_is_the_one_of_all_signs():
    """Of eight images, all 256 signs can be tried; the test draws them at random."""
    pairs = np.array([0.3, 0.5, -0.2, 0.9, 0.4, 0.1, -0.05, 0.6])
    every = [abs(np.mean(pairs * signs)) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.array(every) >= abs(pairs.mean()) - 1e-12)
    found = difference(pairs, np.zeros(8), draws=40_000)
    assert found.p == pytest.approx(exact, abs=0.005)
    assert difference(-pairs, np.zeros(8), draws=40_000).p == found.p
    assert difference(np.zeros(8), np.zeros(8)).p == 1
    assert sign_flip(np.ones(60), draws=99) == 1 / 100, "the data count as one draw"


def test_it_rejects_at_its_level_where_nothing_differs():
    rng = np.random.default_rng(0)
    found = [
        difference(rng.normal(size=20), rng.normal(size=20), seed, draws=400).p < 0.05
        for seed in range(600)
    ]
    low, high = stats.binom.interval(0.999, 600, 0.05)
    assert low <= sum(found) <= high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_its_definition(p):
    made = holm(p)
    ranked = sorted(p)
    for one, corrected in zip(p, made, strict=True):
        steps = [(len(p) - k) * ranked[k] for k in range(len(p)) if ranked[k] <= one]
        assert corrected == pytest.approx(min(1.0, max(steps)), abs=1e-12)
        assert corrected >= one
