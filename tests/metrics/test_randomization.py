"""What is left of a map when weights are drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from semattn.errors import ShapeError
from semattn.metrics.randomization import moved, mprt, randomized, similarity
from semattn.metrics.sparseness import complexity, gini


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def test_moved_is_the_total_variation_distance():
    one = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert moved(one, 7 * one).item() == pytest.approx(0, abs=1e-12)
    assert moved(one, -one).item() == 0, "magnitudes count"
    apart = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert moved(apart, apart.flip(1)).item() == 1
    assert moved(apart, torch.tensor([[0.0, 3.0, 0.0, 0.0]])).item() == 0.5
    assert moved(one, torch.zeros(1, 4)).isnan().all()
    with pytest.raises(ShapeError, match="maps: expected two of one shape"):
        moved(one, one[:, :3])


def test_similarity_is_scipys():
    chance = torch.manual_seed(3)
    one, other = ((torch.rand(4, 5, 6, generator=chance) * 7).floor() for _ in range(2))
    for i in range(4):
        a, b = one[i].numpy().ravel(), other[i].numpy().ravel()
        assert similarity(one, other)[i].item() == pytest.approx(spearmanr(a, b).statistic)
        pearson = similarity(one, other, by="pearson")[i].item()
        assert pearson == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert similarity(one, torch.ones_like(one)).isnan().all()
    with pytest.raises(ValueError, match="did you mean 'pearson'"):
        similarity(one, other, by="pearsn")


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_layers_are_drawn_anew_from_the_output_down(order):
    model = small()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    seen = []
    for name, other in randomized(model, order, seed=1):
        changed = {
            key.rsplit(".", 1)[0] for key, one in other.state_dict().items()
            if not torch.equal(one, before[key])
        }  # fmt: skip
        seen.append((name, changed))
    # the norm's weights are all one and all zero: a spread of nothing draws the same
    assert [name for name, _ in seen] == ["3", "2", "0"]
    if order == "cascading":
        assert [changed for _, changed in seen] == [{"3"}, {"3"}, {"3", "0"}]
    else:
        assert [changed for _, changed in seen] == [{"3"}, set(), {"0"}]
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name])


def test_what_is_drawn_has_the_spread_of_what_was():
    torch.manual_seed(0)
    wide = nn.Linear(300, 300)
    with torch.no_grad():
        wide.weight.mul_(4).add_(0.5)
    ((_, other),) = list(randomized(wide))
    for drawn, was in ((other.weight, wide.weight), (other.bias, wide.bias)):
        assert drawn.mean().item() == pytest.approx(was.mean().item(), abs=0.02)
        assert drawn.std().item() == pytest.approx(was.std().item(), rel=0.12)
        assert not torch.equal(drawn, was)
    ((_, same),) = list(randomized(wide))
    assert torch.equal(other.weight, same.weight)


def test_factors_are_judged_apart():
    """One factor is of the model, one of the image alone: that one cannot tell."""
    x = torch.rand(5, 6, generator=torch.manual_seed(2)).requires_grad_()

    def explain(model):
        (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
        return {"model": gradient, "image": x.detach(), "both": gradient * x.detach()}

    found = mprt(explain, small())
    assert [name for name, _ in found] == ["3", "2", "0"]
    last = found[-1][1]
    torch.testing.assert_close(last["image"], torch.ones(5).double())
    assert last["model"].mean() < 0.7
    only = mprt(explain, small(), only=lambda name: name == "0")
    assert [name for name, _ in only] == ["0"]
    torch.testing.assert_close(only[0][1]["model"], last["model"])
    alone = mprt(lambda model: explain(model)["model"], small())
    torch.testing.assert_close(alone[-1][1]["map"], last["model"])
    with pytest.raises(ValueError, match="did you mean 'cascading'"):
        mprt(explain, small(), order="cascade")


def test_sparseness_by_hand_and_by_quantus():
    values = torch.rand(4, 5, 5, generator=torch.manual_seed(8))
    flat = values.flatten(1).double().numpy()
    for i in range(4):
        pairs = np.abs(flat[i][:, None] - flat[i][None]).mean() / (2 * flat[i].mean())
        assert gini(values)[i].item() == pytest.approx(pairs)
        part = flat[i] / flat[i].sum()
        assert complexity(values)[i].item() == pytest.approx(-(part * np.log(part)).sum())
    assert gini(-values).tolist() == gini(values).tolist()
    assert gini(torch.zeros(1, 4)).item() == 0 and complexity(torch.zeros(1, 4)).isnan().all()
    assert complexity(torch.tensor([[0.0, 3.0]])).item() == 0
    quantus = pytest.importorskip("quantus")
    quiet = {"disable_warnings": True, "display_progressbar": False, "normalise": False}
    given = {
        "model": None, "x_batch": np.zeros((4, 3, 5, 5), np.float32), "y_batch": np.zeros(4, int),
        "a_batch": values[:, None].numpy(), "device": "cpu",
    }  # fmt: skip
    np.testing.assert_allclose(
        np.array(quantus.Complexity(**quiet)(**given)), complexity(values), atol=1e-5
    )
    # Quantus adds a small number to each value
    np.testing.assert_allclose(
        np.array(quantus.Sparseness(**quiet)(**given)), gini(values), atol=1e-4
    )
