"""Simulated rejection rates of the tests against the nulls.

Each simulated analysis has `n_images` images with random concentration and random attention, and
uses `patch_distributions`, `measure` and `Tally` like `analyze`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semattn.attention import AttentionRecord, AttentionSite, Prediction, SiteRecord
from semattn.attention.token_map import TokenMap
from semattn.density import Scene, concentration, strata
from semattn.grid import PatchGrid
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.measure import measure
from semattn.interrelation.nulls import (
    ConcentrationPool,
    PatchDistributions,
    image_keys,
    patch_distributions,
)

GRID = PatchGrid((4, 6), (8, 12), (2, 2))
PATCHES = 24
IMAGES_AT_ONCE = 3000  # images that are measured together
METRICS = {"alignment": (0, 0), "lift": (0, 0, 2, 2)}  # of lifts, HIGH to HIGH


def tied_counts(rng: np.random.Generator, n_images: int) -> np.ndarray:
    """Return clustered counts with ties."""
    return rng.poisson(rng.gamma(0.7, 1.2, (n_images, PATCHES))).astype(float)


def untied_weights(rng: np.random.Generator, n_images: int) -> np.ndarray:
    """Return weights without ties, except for empty patches."""
    return np.clip(rng.gamma(0.5, size=(n_images, PATCHES)) - 0.15, 0, None)


def smooth_fields(rng: np.random.Generator, n_images: int) -> np.ndarray:
    """Return smooth fields on the torus, for which the null `shifted` is exact."""
    noise = rng.gamma(0.5, size=(n_images, *GRID.shape))
    neighbours = sum(np.roll(noise, shift, axis) for axis in (1, 2) for shift in (-1, 1))
    field = (noise + neighbours / 2).reshape(n_images, PATCHES)
    return np.clip(field - np.quantile(field, 0.4, axis=1, keepdims=True), 0, None)


def p_values(
    trials: int, n_images: int, sample, *, n_draws: int = 3, pool: int = 0, common: bool = False,
    planted: float = 0.0,
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """Return the p-values of `trials` analyses of `n_images` images, by (metric, null).

    `common` uses the same attention for all images of an analysis; `planted` is the share of
    attention that follows the concentration.
    """
    rng = np.random.default_rng(1)
    p_values_by_test: dict[tuple[str, str], list[float]] = {}
    for start in range(0, trials, IMAGES_AT_ONCE // n_images):
        n_analyses = min(IMAGES_AT_ONCE // n_images, trials - start)
        s = sample(rng, n_analyses * n_images)
        s[s.sum(1) == 0, 0] = 1
        s = torch.from_numpy(s)
        shape = (n_analyses if common else n_analyses * n_images, PATCHES)
        attention = torch.from_numpy(rng.dirichlet(np.full(PATCHES, 0.3), shape))
        attention = attention.repeat_interleave(n_images, 0) if common else attention
        attention = (1 - planted) * attention + planted * concentration(s)[:, None]
        pixels = rng.integers(0, 255, (n_analyses * n_images, 8, 12, 3), dtype=np.uint8)
        parts = []
        for first in range(0, n_analyses * n_images, n_images):
            rows = slice(first, first + n_images)
            parts.append(_distributions(s[rows], Scene(pixels[rows], (), GRID), n_draws, pool))
        distributions = PatchDistributions(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("weights", "strata")),
            torch.cat([part.keep for part in parts]),
            parts[0].nulls,
        )
        measured = measure(_record(attention), distributions)
        for first in range(0, n_analyses * n_images, n_images):
            tally = Tally(measured.layers, 0)
            tally.add(measured, distributions, {i: i for i in range(first, first + n_images)}, 0)
            for metric, index in METRICS.items():
                for null in distributions.nulls:
                    p_value = tally.against(metric, null)["p_value"][index]
                    p_values_by_test.setdefault((metric, null), []).append(float(p_value))
    return {key: np.array(values) for key, values in p_values_by_test.items()}


def _distributions(s: Tensor, scene: Scene, n_draws: int, pool: int) -> PatchDistributions:
    p, groups = concentration(s), strata(s, scene.seed)
    other_images = ConcentrationPool(pool)
    for key, *entry in list(zip(image_keys(scene), p, groups, strict=True))[:pool]:
        other_images.add(key, *entry)
    return patch_distributions(p, groups, torch.ones_like(p).bool(), scene, n_draws, other_images)


def _record(attention: Tensor) -> AttentionRecord:
    """Return a record of one head without prefix tokens."""
    n_images = len(attention)
    placement = TokenMap(GRID, GRID, n_images)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    site_record = SiteRecord(
        site, (n_images, 1, PATCHES, PATCHES), placement, placement, dense=attention[:, None]
    )
    zeros = torch.zeros(n_images)
    return AttentionRecord((site_record,), GRID, Prediction(zeros[:, None]), zeros.bool())


def assert_rejection_rate(
    p_values_by_test: dict[tuple[str, str], np.ndarray], level: float = 0.05
) -> None:
    """Check that each rejection rate is within the central 99.9 % of its sampling distribution."""
    for test, values in p_values_by_test.items():
        assert np.isfinite(values).all(), test
        rate, std = (values < level).mean(), np.sqrt(level * (1 - level) / len(values))
        assert abs(rate - level) < 3.3 * std, (test, rate)


@pytest.mark.parametrize(("sample", "draws"), [(tied_counts, 20), (smooth_fields, 3)])
def test_one_image_rejects_at_its_rate(sample, draws):
    by_test = p_values(600, 1, sample, n_draws=draws)
    assert {null for _, null in by_test} == {"shifted", "permuted"}
    assert_rejection_rate(by_test)


def test_twenty_images_together_reject_at_their_rate():
    by_test = p_values(200, 20, smooth_fields, pool=8)
    assert {null for _, null in by_test} == {"shifted", "other", "permuted"}
    assert_rejection_rate(by_test)


def test_what_all_images_have_in_common_is_no_finding():
    """Use attention that depends on the position only, not on the concentration of the image."""
    by_test = p_values(60, 60, untied_weights, pool=4, common=True)
    for metric in METRICS:
        # Images share draws, which may reduce the power but not inflate the rate.
        other = by_test.pop((metric, "other"))
        assert (other < 0.05).mean() < 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / len(other)), metric
    assert_rejection_rate(by_test)


def test_ties_between_patches_are_no_finding():
    """Use equal counts, so that no position is HIGH more often than another."""
    by_test = p_values(
        50, 80, lambda rng, n_images: 1.0 * (tied_counts(rng, n_images) > 0), common=True
    )
    assert_rejection_rate({test: by_test[test] for test in by_test if test[0] == "lift"})


def test_attention_that_is_planted_where_the_keypoints_are_is_found():
    for n_images, pool, n_draws in ((1, 0, 20), (20, 20, 3)):
        by_test = p_values(100, n_images, tied_counts, n_draws=n_draws, pool=pool, planted=0.5)
        for test, values in by_test.items():
            assert (values < 0.05).mean() > (
                0.95 if n_images > 1 or test[0] == "alignment" else 0.5
            ), test
