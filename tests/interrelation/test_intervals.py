"""Bootstrap intervals: how often they hold the truth, and that batches have no part in them."""

from __future__ import annotations

import numpy as np
import torch

from semattn.density import Scene
from semattn.grid import PatchGrid
from semattn.images import prepare
from semattn.interrelation import analyze
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.estimates import Figures
from semattn.interrelation.measure import DISTRIBUTION_METRICS, PLAIN_METRICS, Measured
from semattn.interrelation.nulls import PatchDistributions, keys_of
from tests import models

GRID = PatchGrid((1, 2), (1, 2), (1, 1))


def measured(values: np.ndarray) -> Measured:
    """Images (B,) of one head, all figures alike."""
    one = torch.from_numpy(values)[:, None, None]
    held = {
        name: one[..., None].expand(-1, -1, -1, 2)
        for name in DISTRIBUTION_METRICS
        if name != "lift"
    }
    held["lift"] = one[..., None, None, None].expand(-1, -1, -1, 2, 3, 3)
    return Measured(((0, 1),), held, dict.fromkeys(PLAIN_METRICS, one))


NOTHING = PatchDistributions(torch.zeros(0), torch.zeros(0), torch.zeros(0))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    chance, held, trials = np.random.default_rng(0), 0, 300
    for _ in range(trials):
        tally = Tally(((0, 1),), 200)
        keys = dict(enumerate(chance.integers(0, 2**32, 40).tolist()))
        tally.add(measured(chance.gamma(4, 0.25, 40)), NOTHING, keys, 0)
        low, high = Figures(tally, GRID, (), {}).interval("entropy")
        held += bool(low[0, 0] < 1 < high[0, 0])
    assert 0.89 < held / trials < 0.98  # the bootstrap's own, at 40 skewed images


def test_an_image_counts_as_often_in_whatever_batch_it_comes():
    model, many = models.build("class-token"), models.images(12, seed=3)
    whole = analyze(model, many, batch_size=12)
    for other in (
        analyze(model, many, batch_size=5),
        analyze(model, many.flip(0), batch_size=5),
        analyze(model, list(many[:7]), pool=0).merge(analyze(model, list(many[7:]), pool=0)),
    ):
        for name, often in whole.tally.counts.items():
            assert np.array_equal(other.tally.counts[name], often)
        np.testing.assert_allclose(
            other.interval("alignment"), whole.interval("alignment"), rtol=1e-5
        )
    counted = whole.tally.counts["entropy"][:, 0, 0]
    assert counted[0] == 12 and len(set(counted[1:].tolist())) > 5
    # Poisson numbers of the seed and the image: drawn here again
    scene = Scene(prepare(many).pixels, (), PatchGrid((3, 4), models.SIZE, (16, 16)))
    drawn = [np.random.default_rng([0, key]).poisson(1.0, 200) for key in keys_of(scene)]
    assert np.array_equal(counted[1:], np.sum(drawn, axis=0))
