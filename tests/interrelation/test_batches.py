"""Equality of batched and single-image analyses, on every model family."""

from __future__ import annotations

import numpy as np
import pytest

from semattn import analyze
from tests import families, models


@pytest.mark.parametrize("name", [*models.MODELS, *families.FAMILIES])
def test_batches_change_nothing(name):
    with families.shared(name) as model:
        x = list(models.images(5, seed=3))
        options = {"n_null": 2, "pool_size": 3, "n_bootstrap": 0}
        batched = analyze(model, x, **options)  # batches of four and of one
        single = analyze(model, x, batch_size=1, **options)
        assert batched.images == single.images == 5
        for metric in single.metrics:
            np.testing.assert_allclose(
                batched.mean(metric), single.mean(metric), rtol=1e-4, atol=1e-5, equal_nan=True
            )
