"""What is left of a map when weights are drawn anew."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn

from semattn.errors import ShapeError, UnsupportedModelError
from semattn.metrics.randomization import moved, mprt, randomized, similarity
from tests.models import build, devices, images, state_of


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def whole(model: nn.Module) -> tuple[list[object], dict[str, torch.Tensor]]:
    """What a model is: its state, and a copy of every number in it."""
    numbers = [*model.named_parameters(), *model.named_buffers()]
    return state_of(model), {name: one.detach().clone() for name, one in numbers}


def same(one: nn.Module, other: tuple[list[object], dict[str, torch.Tensor]]) -> bool:
    """Equal to the last bit."""
    (state, numbers), (was, were) = whole(one), other
    return (
        state == was
        and numbers.keys() == were.keys()
        and all(torch.equal(numbers[name], were[name]) for name in were)
    )


def test_moved_is_the_total_variation_distance():
    one = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert moved(one, 7 * one).item() == pytest.approx(0, abs=1e-12)
    signs = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    assert moved(one, one * signs).item() == 0, "magnitudes count"
    apart = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert moved(apart, apart.flip(1)).item() == 1
    assert moved(apart, torch.tensor([[0.0, 3.0, 0.0, 0.0]])).item() == 0.5
    assert moved(one, torch.zeros(1, 4)).isnan().all()
    with pytest.raises(ShapeError, match="maps: expected two maps of the same shape"):
        moved(one, one[:, :3])


def test_similarity_is_scipys():
    chance = torch.manual_seed(3)
    one, other = ((torch.rand(4, 5, 6, generator=chance) * 7).floor() for _ in range(2))
    for i in range(4):
        a, b = one[i].numpy().ravel(), other[i].numpy().ravel()
        assert similarity(one, other)[i].item() == pytest.approx(spearmanr(a, b).statistic)
        pearson = similarity(one, other, by="pearson")[i].item()
        assert pearson == pytest.approx(np.corrcoef(a, b)[0, 1])
    with pytest.raises(ValueError, match="did you mean 'pearson'"):
        similarity(one, other, by="pearsn")
    with pytest.raises(ShapeError, match="maps: expected two maps of the same shape"):
        similarity(one, other[:, :4])


@pytest.mark.parametrize(("shape", "side"), [((14, 16), 7), ((3, 4), 3), ((6, 9), 5)])
def test_ssim_is_scikit_images(shape, side):
    chance = torch.manual_seed(4)
    one, other = (torch.randn(3, *shape, generator=chance) * 5 for _ in range(2))
    other[1] = other[1] * 0.1 + one[1]
    found = similarity(one, other, by="ssim")
    for i in range(3):
        pair = [(v - v.min()) / (v.max() - v.min()) for v in (one[i].double(), other[i].double())]
        wanted = structural_similarity(*(v.numpy() for v in pair), win_size=side, data_range=1)
        assert found[i].item() == pytest.approx(wanted, abs=1e-9)
    torch.testing.assert_close(similarity(one, one * 3 + 1, by="ssim"), torch.ones(3).double())
    with pytest.raises(ShapeError, match="3 by 3 at least for ssim, got .3, 2, "):
        similarity(one[:, :2], other[:, :2], by="ssim")


@pytest.mark.parametrize("by", ["spearman", "pearson", "ssim"])
@settings(max_examples=30, deadline=None)
@given(value=st.floats(-9, 9), seed=st.integers(0, 2**31))
def test_an_even_map_is_like_nothing(by, value, seed):
    """Not even by rounding: the mean of equal numbers may be another number."""
    one = torch.rand(2, 9, 11, generator=torch.manual_seed(seed), dtype=torch.double)
    even = torch.full_like(one, value)
    even[1] = one[1]
    for pair in ((one, even), (even, one)):
        found = similarity(*pair, by=by)
        assert found[0].isnan()
        assert found[1].item() == pytest.approx(1, abs=1e-12)


def test_similarity_has_the_sign_and_ranks_see_order_alone():
    one = torch.rand(3, 4, 5, generator=torch.manual_seed(6))
    for by in ("spearman", "pearson"):
        torch.testing.assert_close(similarity(one, -one, by), -torch.ones(3).double())
    assert similarity(one, one.exp()).tolist() == [1, 1, 1]
    assert similarity(one, one.exp(), by="pearson").max() < 1


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
    up = [name for name, _ in randomized(model, order, seed=1, top_down=False)]
    assert up == ["0", "2", "3"]
    for name, one in model.state_dict().items():
        assert torch.equal(one, before[name])


def test_what_is_drawn_has_the_spread_of_what_was():
    torch.manual_seed(0)
    wide = nn.Linear(300, 300)
    with torch.no_grad():
        wide.weight.mul_(4).add_(0.5)
    ((_, other),) = list(randomized(wide, draw="normal"))
    for drawn, was in ((other.weight, wide.weight), (other.bias, wide.bias)):
        assert drawn.mean().item() == pytest.approx(was.mean().item(), abs=0.02)
        assert drawn.std().item() == pytest.approx(was.std().item(), rel=0.12)
        assert not torch.equal(drawn, was)
    ((_, again),) = list(randomized(wide, draw="normal"))
    assert torch.equal(other.weight, again.weight)


def test_a_layer_is_reset_as_it_resets_itself():
    model = small()
    with torch.no_grad():
        model[2].weight.mul_(3)
    drawn = {name: copy.deepcopy(other) for name, other in randomized(model, "independent", seed=5)}
    assert torch.equal(drawn["2"][2].weight, torch.ones(8))
    bound = 6**-0.5
    assert drawn["0"][0].weight.abs().max() <= bound < 1.2 * drawn["0"][0].weight.abs().max()
    assert torch.equal(drawn["0"][2].weight, model[2].weight), "alone"


def test_statistics_go_with_their_layer_and_come_back():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.rand(9, 4) + 5)
    model.eval()
    before = whole(model)
    seen = {}
    for name, other in randomized(model, "independent"):
        seen[name] = other[0].running_mean.clone()
    assert seen["0"].tolist() == [0] * 4
    assert torch.equal(seen["1"], model[0].running_mean) and seen["1"].min() > 0
    assert same(model, before)


class Nested(nn.Module):
    """Has a parameter of its own, and resets the modules inside as well."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.full((3,), 7.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        self.inner.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale


def test_what_lies_inside_a_layer_is_a_layer_of_its_own():
    model = nn.Sequential(Nested())
    seen = []
    for name, other in randomized(model, "independent"):
        same = torch.equal(other[0].inner.weight, model[0].inner.weight)
        seen.append((name, same, other[0].scale.tolist()))
    assert seen == [("0.inner", False, [7.0] * 3), ("0", True, [1.0] * 3)]


@pytest.mark.parametrize("draw", ["reset", "normal"])
@pytest.mark.parametrize("top_down", [True, False])
def test_a_layer_is_drawn_alike_in_every_order(draw, top_down):
    model = build("registers")
    options = {"seed": 3, "draw": draw}
    for name, last in randomized(model, "cascading", **options, top_down=top_down):  # noqa: B007
        pass
    ((said, full),) = randomized(model, "full", **options)
    assert said == "all"
    assert same(full, whole(last))
    assert not same(full, whole(model))
    for name, other in randomized(model, "independent", **options, top_down=top_down):
        part = "" if name == "model" else name
        own = dict(other.get_submodule(part).named_parameters(recurse=False))
        for key, one in full.get_submodule(part).named_parameters(recurse=False):
            assert torch.equal(one, own[key])
    ((_, another),) = randomized(model, "full", seed=4, draw=draw)
    assert not torch.equal(another.head.weight, full.head.weight)


def test_a_vision_transformer_loses_every_weight():
    model = build("class-token")
    ((_, full),) = randomized(model, "full")
    for name, one in full.named_parameters():
        assert not torch.equal(one, model.get_parameter(name)), name


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("order", ["cascading", "independent", "full"])
def test_the_model_and_the_dice_are_as_they_were(order, device):
    model = build("class-token").to(device).train()
    model.head.weight.requires_grad_(False)
    before, dice = whole(model), torch.get_rng_state()

    def failing() -> None:
        for _, other in randomized(model, order):
            assert other is not model
            assert other.training and not other.head.weight.requires_grad
            assert other.head.weight.device == model.head.weight.device
            with torch.no_grad():
                other.head.weight.zero_()
            raise ZeroDivisionError

    for _ in randomized(model, order):
        break
    with pytest.raises(ZeroDivisionError):
        failing()
    for _ in randomized(model, order, draw="normal"):
        pass
    assert same(model, before)
    assert torch.equal(torch.get_rng_state(), dice)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_precision(dtype):
    ((_, other),) = randomized(build("class-token", dtype), "full")
    assert {one.dtype for one in other.parameters()} == {dtype}


def test_what_cannot_be_drawn_is_refused_at_once():
    with pytest.raises(ValueError, match="order: unknown name 'ful' — did you mean 'full'"):
        randomized(small(), "ful")
    with pytest.raises(ValueError, match="draw: unknown name 'rest' — did you mean 'reset'"):
        randomized(small(), draw="rest")
    with pytest.raises(UnsupportedModelError, match="expected parameters to randomize, got none"):
        randomized(nn.ReLU())
    model = small()
    model.kept = model(torch.rand(1, 6))
    with pytest.raises(UnsupportedModelError, match="that copy.deepcopy can copy, got RuntimeErr"):
        next(randomized(model))


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
    up = mprt(explain, small(), top_down=False)
    assert [name for name, _ in up] == ["0", "2", "3"]
    kept = mprt(explain, small(), draw="normal")
    assert not torch.equal(kept[0][1]["model"], found[0][1]["model"])
    ((name, full),) = mprt(explain, small(), order="full", by="pearson")
    assert name == "all" and full["model"].shape == (5,)
    with pytest.raises(ValueError, match="did you mean 'cascading'"):
        mprt(explain, small(), order="cascade")
    never = pytest.fail
    with pytest.raises(ValueError, match="did you mean 'ssim'"):
        mprt(never, small(), by="sim")


def test_factors_are_the_same_of_every_model():
    model = small()
    maps = {"one": torch.rand(2, 4)}

    def explain(other):
        return maps if other is model else {"two": maps["one"]}

    with pytest.raises(ValueError, match="explain: expected maps one of every model, got two at 3"):
        mprt(explain, model)


def test_the_maps_are_those_of_the_drawn_models():
    """By hand, of a transformer: explain each copy, compare with the first map."""
    model, x = build("class-token"), images(2)

    def explain(other):
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(other(inputs)[:, 1].sum(), inputs)
        return gradient.abs().sum(dim=1)

    before = whole(model)
    found = mprt(explain, model, by="ssim", seed=2, only=lambda name: name.endswith("qkv"))
    assert [name for name, _ in found] == [f"blocks.{i}.attn.qkv" for i in (3, 2, 1, 0)]
    wanted = {
        name: similarity(explain(model), explain(other), by="ssim")
        for name, other in randomized(model, seed=2)
    }
    for name, one in found:
        assert torch.equal(one["map"], wanted[name])
    assert same(model, before)
