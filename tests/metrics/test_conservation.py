"""Conservation by hand, and of networks without biases under the epsilon rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from semattn.attention.propagation import PropagationMode
from semattn.attention.rule_registry import RuleSettings
from semattn.errors import ShapeError
from semattn.evaluation import measures
from semattn.metrics.conservation import conservation, conservation_error

EPSILON = RuleSettings(gamma=0.0, conv_gamma=0.0, epsilon=1e-6, attention="attn-lrp")


def test_numbers_by_hand() -> None:
    relevance = torch.tensor([[[3.0, -1.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]]])
    ratio = conservation(relevance, torch.tensor([4.0, -2.0]))
    assert ratio.tolist() == [1.0, -0.5]
    assert conservation_error(ratio).tolist() == [0.0, 1.5]
    assert bool(conservation(torch.ones(1, 3), torch.zeros(1)).isnan())


@pytest.mark.parametrize("score", [torch.ones(3), torch.ones(2, 1)])
def test_one_score_per_image_is_needed(score: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"relevance, score: expected \(B, …\) and \(B,\)"):
        conservation(torch.ones(2, 4), score)


def test_lower_errors_are_better() -> None:
    assert not measures["conservation-error"].higher_is_better
    assert not measures["conservation-error"].mask


def relevance_of(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relevance of `x` by the epsilon rule, and the score (B,)."""
    network.requires_grad_(False)  # weights that require gradients would count as inputs
    x = x.clone().requires_grad_()
    with PropagationMode(EPSILON):
        score = network(x).sum(dim=1)
        (gradient,) = torch.autograd.grad(score.sum(), x)
    return x.detach() * gradient, score.detach()


def test_a_bias_keeps_its_part() -> None:
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, 1.0]]))
        network.bias.fill_(6.0)
    # 2 * 1 + 1 * 4 + 6 = 12: the inputs have 2 and 4, the bias has the other half.
    relevance, score = relevance_of(network, torch.tensor([[1.0, 4.0]]))
    torch.testing.assert_close(relevance, torch.tensor([[2.0, 4.0]]))
    torch.testing.assert_close(conservation(relevance, score), torch.tensor([0.5]).double())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh])
def test_networks_without_biases_conserve_the_score(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(6, 8, bias=False), activation(), nn.LayerNorm(8, bias=False),
        nn.Linear(8, 8, bias=False), activation(), nn.Linear(8, 1, bias=False),
    )  # fmt: skip
    relevance, score = relevance_of(network, torch.randn(5, 6))
    assert bool((conservation_error(conservation(relevance, score)) < 0.05).all())
