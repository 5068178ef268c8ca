"""Significance of cues against values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import fisher_exact, t

from semattn.spurious.significance import (
    Effect,
    alpha_weights,
    corrected_p,
    effect,
    fisher_p,
    relative_risk_bound,
    score,
    specificity_p,
)


def test_sign_flip_of_three_equal_values_has_p_of_one_eighth():
    assert effect(np.array([1.0, 1.0, 1.0])).p == pytest.approx(1 / 8, abs=0.01)
    assert effect(-np.ones(5)).p == 1
    assert effect(np.array([2.0, np.nan])).count == 1
    no_effect = effect(np.full(3, np.nan))
    assert no_effect.p == 1 and no_effect.count == 0 and np.isnan(no_effect.mean)


def test_null_effects_are_significant_at_the_level():
    rng = np.random.default_rng(0)
    p = np.array([effect(rng.normal(size=16), seed).p for seed in range(200)])
    assert 0.01 < (p < 0.05).mean() < 0.1  # the 99.9 % binomial band of 200 draws


def test_fisher_p_is_fishers_exact_test():
    rng = np.random.default_rng(1)
    inside, outside = rng.random(9) < 0.7, rng.random(14) < 0.3
    table = [[inside.sum(), (~inside).sum()], [outside.sum(), (~outside).sum()]]
    assert fisher_p(inside, outside) == pytest.approx(fisher_exact(table, "greater")[1])


def test_score_is_contrast_times_removal_effect():
    inside, outside = np.array([True, True, True, False]), np.array([True, False, False, False])
    value, (low, high) = score(inside, outside, np.array([1.0, 3.0]))
    assert value == pytest.approx(0.5 * 2) and low <= value <= high
    assert score(outside, inside, np.array([1.0]))[0] == 0
    assert score(inside, outside, np.array([]))[0] == 0
    assert alpha_weights([1e-4, 1e-4]) == pytest.approx([0.5, 0.5])
    assert alpha_weights([1e-8, 1e-4]) == pytest.approx([0.8, 0.2])


def test_p_of_a_cue_is_its_greatest_corrected_p():
    def p_of(frequency, removal, transplant, alpha_weight, specificity=0.0):
        removal, transplant = (Effect(1.0, 0.5, 1.5, 9, p) for p in (removal, transplant))
        transplant = replace(transplant, specificity=specificity)
        return corrected_p(frequency, 20, removal, transplant, alpha_weight)

    assert p_of(1e-3, 1e-4, 1e-4, 1.0) == pytest.approx(0.02)
    assert p_of(1e-9, 1e-2, 1e-4, 0.5) == pytest.approx(0.04)
    assert p_of(1e-9, 1e-4, 1e-2, 0.5) == pytest.approx(0.02)
    assert p_of(1e-9, 1e-4, 1e-4, 0.5, 0.03) == pytest.approx(0.06)
    assert p_of(0.5, 1e-4, 1e-2, 0.5) == 1


def test_specificity_is_the_t_test_of_one_class_against_the_others():
    rng = np.random.default_rng(2)
    effects = rng.normal(size=(7, 6)) + np.array([0, 0, 4, 0, 0, 1])
    means = effects.mean(axis=0)
    others = np.delete(means, 2)
    excess = (means[2] - others.mean()) / (others.std(ddof=1) * np.sqrt(1 + 1 / 5))
    assert specificity_p(effects, 2) == pytest.approx(t.sf(excess, 4))
    assert specificity_p(effects, 2) < 0.05 < specificity_p(effects, 5)
    shifted = effects + rng.normal(size=(7, 1))  # the normaliser of log-probabilities
    assert specificity_p(shifted, 2) == pytest.approx(specificity_p(effects, 2))
    own = effects.copy()
    own[:3, 0] = own[5, 4] = np.nan  # the own classes of four images
    means[[0, 4]] = effects[3:, 0].mean(), np.delete(effects[:, 4], 5).mean()
    assert specificity_p(own, 2) == pytest.approx(specificity_p(means[None], 2))
    own[:, 0] = np.nan
    assert specificity_p(own, 2) == pytest.approx(specificity_p(means[None, 1:], 1))
    assert specificity_p(np.full((3, 6), np.nan), 2) == 1
    assert specificity_p(effects[:, :2], 0) == 0  # a single other class
    assert specificity_p(np.eye(4)[:1], 0) == 0 and specificity_p(-np.eye(4)[:1], 0) == 1


def test_class_that_is_one_of_the_others_is_specific_at_the_level():
    rng = np.random.default_rng(3)
    p = np.array([specificity_p(rng.normal(size=(1, 13)), 4) for _ in range(400)])
    assert 0.02 < (p < 0.05).mean() < 0.09


def test_relative_risk_bound_is_the_lower_limit_of_the_relative_risk():
    inside, outside = np.arange(30) < 15, np.arange(360) < 52
    log_sd = np.sqrt(1 / 15 - 1 / 30 + 1 / 52 - 1 / 360)  # of the logarithm (Katz et al. 1978)
    ratio = (15 / 30) / (52 / 360)
    assert relative_risk_bound(inside, outside) == pytest.approx(
        ratio * np.exp(-1.96 * log_sd), rel=1e-4
    )
    assert relative_risk_bound(inside, np.zeros(360, bool)) > 3  # as if one did
    assert relative_risk_bound(np.zeros(30, bool), outside) == 0
