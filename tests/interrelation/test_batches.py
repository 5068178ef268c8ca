"""An analysis of several images at once is that of each alone, on every family."""

from __future__ import annotations

import numpy as np
import pytest

from semattn import analyze
from tests import families, models


@pytest.mark.parametrize("name", [*models.MODELS, *families.FAMILIES])
def test_batches_change_nothing(name):
    model = models.build(name) if name in models.MODELS else families.build(name)
    x = list(models.images(5, seed=3))
    options = {"draws": 2, "pool": 3, "replicates": 0}
    several = analyze(model, x, **options)  # batches of four and of one
    alone = analyze(model, x, batch_size=1, **options)
    assert several.images == alone.images == 5
    for figure in alone.figures:
        np.testing.assert_allclose(
            several.mean(figure), alone.mean(figure), rtol=1e-4, atol=1e-5, equal_nan=True
        )
