"""Tests of the loss weights of patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.errors import ShapeError
from semattn.masking import LOSS_WEIGHTS, kamim_weight, loss_weights, masked_target_loss


@given(st.lists(st.floats(0, 5), min_size=2, max_size=9), st.floats(0.2, 3))
@settings(max_examples=60, deadline=None)
def test_kamim_weights_match_the_paper(values, temperature):
    density = torch.tensor([values], dtype=torch.float64)
    w = kamim_weight(density, temperature)
    expected = [np.exp(min(value / temperature, 20)) for value in values]
    assert w[0].tolist() == pytest.approx([value / min(expected) for value in expected])
    assert w.min() == 1
    both = kamim_weight(torch.cat([density, 2 * density + 1]), temperature)
    assert both[:1].equal(w) and both[1].min() == 1, "each image separately"


def test_weights_by_name():
    s = np.array([0.0, 2.0, 8.0])
    assert loss_weights("none", s, 64) is None
    assert loss_weights("kamim", s, 64).tolist() == pytest.approx(np.exp(s / 64 / 0.5).tolist())
    relative = loss_weights("kamim-relative", s, 64)
    assert relative.tolist() == pytest.approx(np.exp(s / 8 / 0.5).tolist())
    assert loss_weights("kamim-relative", np.zeros(3), 64).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="unknown name 'kamin'"):
        loss_weights("kamin", s, 64)
    with pytest.raises(ValueError, match="temperature"):
        kamim_weight(torch.zeros(1, 2), 0)


def slow_weights(name, s, epsilon, tau):
    """Return the keypoint weights of one image by loops."""
    if name == "keypoints-linear":
        weights = [count + 0.1 * sum(s) / len(s) for count in s]
    else:
        weights = [(count + epsilon) / (count + epsilon + tau) for count in s]
    mean = sum(weights) / len(weights)
    return [weight / mean for weight in weights] if mean else [1.0] * len(s)


@given(
    counts=st.lists(st.lists(st.integers(0, 9), min_size=6, max_size=6), min_size=1, max_size=3),
    name=st.sampled_from(["keypoints", "keypoints-linear"]),
)
@settings(max_examples=50, deadline=None)
def test_keypoint_weights_are_those_of_the_definition(counts, name):
    actual = loss_weights(name, torch.tensor(counts), epsilon=0.3, tau=2.0)
    expected = [slow_weights(name, s, 0.3, 2.0) for s in counts]
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert actual.dtype == torch.float32
    # A batch has the weights of its images, and a single image needs no batch axis.
    single = loss_weights(name, np.array(counts[0]), epsilon=0.3, tau=2)
    assert torch.equal(single, actual[0])


def test_known_values_of_keypoint_weights():
    s = torch.tensor([[0.0, 0.9, 9.9]])
    w = torch.tensor([[0.1 / 1.1, 1 / 2, 10 / 11]])
    torch.testing.assert_close(loss_weights("keypoints", s), w / w.mean())
    linear = loss_weights("keypoints-linear", torch.tensor([[0.0, 4.0]]))
    torch.testing.assert_close(linear, torch.tensor([[0.2, 4.2]]) / 2.2)


@pytest.mark.parametrize("name", sorted({*LOSS_WEIGHTS} - {"none"}))
def test_images_without_keypoints_have_equal_weights(name):
    assert torch.equal(loss_weights(name, torch.zeros(2, 4)), torch.ones(2, 4))


@pytest.mark.parametrize("name", sorted({*LOSS_WEIGHTS} - {"none"}))
def test_more_keypoints_never_weigh_less(name):
    weights = loss_weights(name, torch.arange(6.0)[None])[0]
    assert weights.diff().min() > 0


def test_many_keypoints_saturate():
    weights = loss_weights("keypoints", torch.tensor([0.0, 1e3, 1e300], dtype=torch.float64))
    assert weights.isfinite().all() and weights[2] / weights[1] < 1.01


def test_weights_of_the_loss_use_ratios_within_an_image_only():
    generator = torch.Generator().manual_seed(0)
    predicted, targets = torch.randn(2, 3, 4, 5, generator=generator)
    mask = torch.tensor([[1, 1, 0, 1]] * 3)
    raw = torch.tensor([[2.0, 0, 5, 1], [0, 3, 1, 1], [1, 1, 1, 0]])
    weights = loss_weights("keypoints", raw)
    expected = masked_target_loss(predicted, targets, mask, (raw + 0.1) / (raw + 1.1))
    torch.testing.assert_close(masked_target_loss(predicted, targets, mask, weights), expected)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"name": "keypoint"}, ValueError, "loss_weight: unknown name"),
        ({"s": torch.zeros(2, 0)}, ShapeError, "density: expected"),
        ({"s": {1, 2}}, TypeError, "density: expected numbers"),
        ({"epsilon": 0}, ValueError, "epsilon: expected a number above 0"),
        ({"tau": -1}, ValueError, "tau: expected"),
        ({"tau": 0.0}, ValueError, "tau: expected a number above 0"),
        ({"area": 0}, ValueError, "area: expected"),
    ],
)
def test_errors_of_weights_are_one_line(changed, error, message):
    with pytest.raises(error, match=f"^{message}[^\n]*$"):
        loss_weights(**({"name": "keypoints", "s": torch.ones(2, 4)} | changed))
