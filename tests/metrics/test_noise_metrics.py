"""Tests of infidelity and max-sensitivity on cases with a known result."""

from __future__ import annotations

import pytest
import torch

from semattn.errors import ShapeError
from semattn.metrics.faithfulness import infidelity, max_sensitivity

X = torch.rand(3, 3, 8, 8, generator=torch.manual_seed(0))
TARGET = torch.tensor([0, 1, 1])
WEIGHTS = torch.randn(2, 3 * 64, generator=torch.manual_seed(1))


def linear(images):
    return images.flatten(1) @ WEIGHTS.T


def test_weights_of_a_linear_model_have_zero_infidelity():
    weights = WEIGHTS[TARGET].reshape(3, 3, 8, 8)

    def exact(images):  # float32 rounding depends on the build of torch
        return images.flatten(1) @ WEIGHTS.double().T

    for times in (1, 3):
        error = infidelity(exact, X.double(), times * weights.double(), TARGET)
        assert error.abs().max() < 1e-6
    assert infidelity(linear, X, 3 * weights, TARGET, normalize=False).min() > 0.1
    other = infidelity(linear, X, weights.flip(-1), TARGET)
    assert other.min() > 1e-3 and other.dtype == torch.float64


def test_the_seed_determines_the_draws():
    noisy = torch.rand(3, 3, 8, 8, generator=torch.manual_seed(5))
    first, second = (infidelity(linear, X, noisy, TARGET, seed=3) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, infidelity(linear, X, noisy, TARGET, seed=4))


def test_sensitivity_of_maps_whose_change_is_known():
    assert max_sensitivity(lambda x: torch.ones(len(x), 4, 4), X).eq(0).all()
    moved = max_sensitivity(lambda x: x, X, radius=0.1, n_samples=50)
    most = 0.1 * (3 * 64) ** 0.5 / X.flatten(1).norm(dim=1).double()
    assert (moved <= most).all() and (moved > 0.4 * most).all()
    halved = max_sensitivity(lambda x: x, X, radius=0.05, n_samples=50)
    torch.testing.assert_close(halved, moved / 2, atol=1e-6, rtol=1e-4)


def test_an_attribution_of_another_shape_is_refused():
    with pytest.raises(ShapeError, match="attribution: expected") as error:
        infidelity(linear, X, X[:, :1], TARGET)
    assert "\n" not in str(error.value)
