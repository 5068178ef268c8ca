"""Coverage of bootstrap intervals, and their independence of batches."""

from __future__ import annotations

import numpy as np
import torch

from semattn.density import Scene
from semattn.grid import PatchGrid
from semattn.images import prepare
from semattn.interrelation import analyze
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.estimates import AnalysisResult
from semattn.interrelation.measure import DISTRIBUTION_METRICS, PLAIN_METRICS, BatchMetrics
from semattn.interrelation.nulls import PatchDistributions, image_keys
from tests import models

GRID = PatchGrid((1, 2), (1, 2), (1, 1))


def build_measured(values: np.ndarray) -> BatchMetrics:
    """Return values (B,) as every metric of one head."""
    values_by_head = torch.from_numpy(values)[:, None, None]
    by_distribution = {
        name: values_by_head[..., None].expand(-1, -1, -1, 2)
        for name in DISTRIBUTION_METRICS
        if name != "lift"
    }
    by_distribution["lift"] = values_by_head[..., None, None, None].expand(-1, -1, -1, 2, 3, 3)
    return BatchMetrics(((0, 1),), by_distribution, dict.fromkeys(PLAIN_METRICS, values_by_head))


NO_DISTRIBUTIONS = PatchDistributions(torch.zeros(0), torch.zeros(0), torch.zeros(0))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, n_covered, trials = np.random.default_rng(0), 0, 300
    for _ in range(trials):
        tally = Tally(((0, 1),), 200)
        keys = dict(enumerate(rng.integers(0, 2**32, 40).tolist()))
        tally.add(build_measured(rng.gamma(4, 0.25, 40)), NO_DISTRIBUTIONS, keys, 0)
        low, high = AnalysisResult(tally, GRID, (), {}).interval("entropy")
        n_covered += bool(low[0, 0] < 1 < high[0, 0])
    assert 0.89 < n_covered / trials < 0.98  # the coverage of this bootstrap for 40 skewed images


def test_an_image_counts_as_often_in_whatever_batch_it_comes():
    model, inputs = models.build("class-token"), models.images(12, seed=3)
    analysis = analyze(model, inputs, batch_size=12)
    for other in (
        analyze(model, inputs, batch_size=5),
        analyze(model, inputs.flip(0), batch_size=5),
        analyze(model, list(inputs[:7]), pool_size=0).merge(
            analyze(model, list(inputs[7:]), pool_size=0)
        ),
    ):
        for name, counts in analysis.tally.counts.items():
            assert np.array_equal(other.tally.counts[name], counts)
        np.testing.assert_allclose(
            other.interval("alignment"), analysis.interval("alignment"), rtol=1e-5
        )
    counts = analysis.tally.counts["entropy"][:, 0, 0]
    assert counts[0] == 12 and len(set(counts[1:].tolist())) > 5
    # Poisson counts that depend on the seed and the image
    scene = Scene(prepare(inputs).pixels, (), PatchGrid((3, 4), models.SIZE, (16, 16)))
    resamples = [np.random.default_rng([0, key]).poisson(1.0, 200) for key in image_keys(scene)]
    assert np.array_equal(counts[1:], np.sum(resamples, axis=0))
