"""Tests of randomization: similarity of maps, randomized models and the MPRT."""

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
from semattn.metrics.randomization import mprt, randomized, similarity, total_variation
from tests.models import build, devices, images, state_of


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def snapshot(model: nn.Module) -> tuple[list[object], dict[str, torch.Tensor]]:
    """Return the state of a model and a copy of its parameters and buffers."""
    numbers = [*model.named_parameters(), *model.named_buffers()]
    return state_of(model), {name: tensor.detach().clone() for name, tensor in numbers}


def is_unchanged(model: nn.Module, expected: tuple[list[object], dict[str, torch.Tensor]]) -> bool:
    """Compare a model to a snapshot, bit by bit."""
    (state, numbers), (expected_state, expected_numbers) = snapshot(model), expected
    return (
        state == expected_state
        and numbers.keys() == expected_numbers.keys()
        and all(torch.equal(numbers[name], expected_numbers[name]) for name in expected_numbers)
    )


def test_moved_is_the_total_variation_distance():
    heat_map = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert total_variation(heat_map, 7 * heat_map).item() == pytest.approx(0, abs=1e-12)
    signs = torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    assert total_variation(heat_map, heat_map * signs).item() == 0, "magnitudes count"
    half = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert total_variation(half, half.flip(1)).item() == 1
    assert total_variation(half, torch.tensor([[0.0, 3.0, 0.0, 0.0]])).item() == 0.5
    assert total_variation(heat_map, torch.zeros(1, 4)).isnan().all()
    with pytest.raises(ShapeError, match="maps: expected two maps of the same shape"):
        total_variation(heat_map, heat_map[:, :3])


def test_similarity_matches_scipy():
    chance = torch.manual_seed(3)
    first, second = ((torch.rand(4, 5, 6, generator=chance) * 7).floor() for _ in range(2))
    for i in range(4):
        a, b = first[i].numpy().ravel(), second[i].numpy().ravel()
        assert similarity(first, second)[i].item() == pytest.approx(spearmanr(a, b).statistic)
        pearson = similarity(first, second, by="pearson")[i].item()
        assert pearson == pytest.approx(np.corrcoef(a, b)[0, 1])
    with pytest.raises(ValueError, match="did you mean 'pearson'"):
        similarity(first, second, by="pearsn")
    with pytest.raises(ShapeError, match="maps: expected two maps of the same shape"):
        similarity(first, second[:, :4])


@pytest.mark.parametrize(("shape", "side"), [((14, 16), 7), ((3, 4), 3), ((6, 9), 5)])
def test_ssim_matches_scikit_image(shape, side):
    chance = torch.manual_seed(4)
    first, second = (torch.randn(3, *shape, generator=chance) * 5 for _ in range(2))
    second[1] = second[1] * 0.1 + first[1]
    actual = similarity(first, second, by="ssim")
    for i in range(3):
        pair = [
            (v - v.min()) / (v.max() - v.min()) for v in (first[i].double(), second[i].double())
        ]
        expected = structural_similarity(*(v.numpy() for v in pair), win_size=side, data_range=1)
        assert actual[i].item() == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(similarity(first, first * 3 + 1, by="ssim"), torch.ones(3).double())
    with pytest.raises(ShapeError, match="of at least 3x3 for ssim, got .3, 2, "):
        similarity(first[:, :2], second[:, :2], by="ssim")


@pytest.mark.parametrize("by", ["spearman", "pearson", "ssim"])
@settings(max_examples=30, deadline=None)
@given(value=st.floats(-9, 9), seed=st.integers(0, 2**31))
def test_the_similarity_to_a_uniform_map_is_nan(by, value, seed):
    """The result is exact although the mean of equal numbers may be rounded."""
    heat_map = torch.rand(2, 9, 11, generator=torch.manual_seed(seed), dtype=torch.double)
    uniform = torch.full_like(heat_map, value)
    uniform[1] = heat_map[1]
    for pair in ((heat_map, uniform), (uniform, heat_map)):
        actual = similarity(*pair, by=by)
        assert actual[0].isnan()
        assert actual[1].item() == pytest.approx(1, abs=1e-12)


def test_similarity_is_signed_and_ranks_use_only_the_order():
    heat_map = torch.rand(3, 4, 5, generator=torch.manual_seed(6))
    for by in ("spearman", "pearson"):
        torch.testing.assert_close(similarity(heat_map, -heat_map, by), -torch.ones(3).double())
    assert similarity(heat_map, heat_map.exp()).tolist() == [1, 1, 1]
    assert similarity(heat_map, heat_map.exp(), by="pearson").max() < 1


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_layers_are_randomized_from_the_output_down(order):
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = []
    for name, randomized_model in randomized(model, order, seed=1):
        changed = {
            key.rsplit(".", 1)[0] for key, tensor in randomized_model.state_dict().items()
            if not torch.equal(tensor, before[key])
        }  # fmt: skip
        steps.append((name, changed))
    # the norm's parameters are constant and therefore do not change
    assert [name for name, _ in steps] == ["3", "2", "0"]
    if order == "cascading":
        assert [changed for _, changed in steps] == [{"3"}, {"3"}, {"3", "0"}]
    else:
        assert [changed for _, changed in steps] == [{"3"}, set(), {"0"}]
    up = [name for name, _ in randomized(model, order, seed=1, top_down=False)]
    assert up == ["0", "2", "3"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_normal_draws_keep_mean_and_standard_deviation():
    torch.manual_seed(0)
    wide = nn.Linear(300, 300)
    with torch.no_grad():
        wide.weight.mul_(4).add_(0.5)
    ((_, other),) = list(randomized(wide, draw="normal"))
    for new, old in ((other.weight, wide.weight), (other.bias, wide.bias)):
        assert new.mean().item() == pytest.approx(old.mean().item(), abs=0.02)
        assert new.std().item() == pytest.approx(old.std().item(), rel=0.12)
        assert not torch.equal(new, old)
    ((_, again),) = list(randomized(wide, draw="normal"))
    assert torch.equal(other.weight, again.weight)


def test_reset_uses_reset_parameters():
    model = small()
    with torch.no_grad():
        model[2].weight.mul_(3)
    models = {
        name: copy.deepcopy(other) for name, other in randomized(model, "independent", seed=5)
    }
    assert torch.equal(models["2"][2].weight, torch.ones(8))
    bound = 6**-0.5
    assert models["0"][0].weight.abs().max() <= bound < 1.2 * models["0"][0].weight.abs().max()
    assert torch.equal(models["0"][2].weight, model[2].weight), "only one layer"


def test_statistics_are_reset_and_restored_with_their_layer():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    model(torch.rand(9, 4) + 5)
    model.eval()
    before = snapshot(model)
    running_means = {}
    for name, other in randomized(model, "independent"):
        running_means[name] = other[0].running_mean.clone()
    assert running_means["0"].tolist() == [0] * 4
    assert torch.equal(running_means["1"], model[0].running_mean) and running_means["1"].min() > 0
    assert is_unchanged(model, before)


class Nested(nn.Module):
    """Module with its own parameter that also resets its submodules."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.full((3,), 7.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.scale)
        self.inner.reset_parameters()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale


def test_submodules_are_separate_layers():
    model = nn.Sequential(Nested())
    steps = []
    for name, other in randomized(model, "independent"):
        inner_unchanged = torch.equal(other[0].inner.weight, model[0].inner.weight)
        steps.append((name, inner_unchanged, other[0].scale.tolist()))
    assert steps == [("0.inner", False, [7.0] * 3), ("0", True, [1.0] * 3)]


@pytest.mark.parametrize("draw", ["reset", "normal"])
@pytest.mark.parametrize("top_down", [True, False])
def test_the_values_of_a_layer_do_not_depend_on_the_order(draw, top_down):
    model = build("registers")
    options = {"seed": 3, "draw": draw}
    for name, last in randomized(model, "cascading", **options, top_down=top_down):  # noqa: B007
        pass
    ((full_name, full),) = randomized(model, "full", **options)
    assert full_name == "all"
    assert is_unchanged(full, snapshot(last))
    assert not is_unchanged(full, snapshot(model))
    for name, other in randomized(model, "independent", **options, top_down=top_down):
        part = "" if name == "model" else name
        parameters = dict(other.get_submodule(part).named_parameters(recurse=False))
        for key, parameter in full.get_submodule(part).named_parameters(recurse=False):
            assert torch.equal(parameter, parameters[key])
    ((_, another),) = randomized(model, "full", seed=4, draw=draw)
    assert not torch.equal(another.head.weight, full.head.weight)


def test_all_weights_of_a_vision_transformer_change():
    model = build("class-token")
    ((_, full),) = randomized(model, "full")
    for name, parameter in full.named_parameters():
        assert not torch.equal(parameter, model.get_parameter(name)), name


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("order", ["cascading", "independent", "full"])
def test_the_model_and_the_random_state_are_unchanged(order, device):
    model = build("class-token").to(device).train()
    model.head.weight.requires_grad_(False)
    before, rng_state = snapshot(model), torch.get_rng_state()

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
    assert is_unchanged(model, before)
    assert torch.equal(torch.get_rng_state(), rng_state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_precision(dtype):
    ((_, other),) = randomized(build("class-token", dtype), "full")
    assert {parameter.dtype for parameter in other.parameters()} == {dtype}


def test_invalid_options_are_refused_immediately():
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


def test_factors_are_tested_separately():
    """One factor depends on the model and one only on the image; the latter does not change."""
    x = torch.rand(5, 6, generator=torch.manual_seed(2)).requires_grad_()

    def explain(model):
        (gradient,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
        return {"model": gradient, "image": x.detach(), "both": gradient * x.detach()}

    results = mprt(explain, small())
    assert [name for name, _ in results] == ["3", "2", "0"]
    last = results[-1][1]
    torch.testing.assert_close(last["image"], torch.ones(5).double())
    assert last["model"].mean() < 0.7
    only = mprt(explain, small(), only=lambda name: name == "0")
    assert [name for name, _ in only] == ["0"]
    torch.testing.assert_close(only[0][1]["model"], last["model"])
    single = mprt(lambda model: explain(model)["model"], small())
    torch.testing.assert_close(single[-1][1]["map"], last["model"])
    up = mprt(explain, small(), top_down=False)
    assert [name for name, _ in up] == ["0", "2", "3"]
    normal_results = mprt(explain, small(), draw="normal")
    assert not torch.equal(normal_results[0][1]["model"], results[0][1]["model"])
    ((name, full),) = mprt(explain, small(), order="full", by="pearson")
    assert name == "all" and full["model"].shape == (5,)
    with pytest.raises(ValueError, match="did you mean 'cascading'"):
        mprt(explain, small(), order="cascade")
    never = pytest.fail
    with pytest.raises(ValueError, match="did you mean 'ssim'"):
        mprt(never, small(), by="sim")


def test_different_factors_are_refused():
    model = small()
    maps = {"one": torch.rand(2, 4)}

    def explain(other):
        return maps if other is model else {"two": maps["one"]}

    with pytest.raises(ValueError, match="explain: expected maps one for each model, got two at 3"):
        mprt(explain, model)


def test_the_maps_are_those_of_the_randomized_models():
    """Explain each randomized copy of a transformer and compare with the original map."""
    model, x = build("class-token"), images(2)

    def explain(other):
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(other(inputs)[:, 1].sum(), inputs)
        return gradient.abs().sum(dim=1)

    before = snapshot(model)
    results = mprt(explain, model, by="ssim", seed=2, only=lambda name: name.endswith("qkv"))
    assert [name for name, _ in results] == [f"blocks.{i}.attn.qkv" for i in (3, 2, 1, 0)]
    expected = {
        name: similarity(explain(model), explain(other), by="ssim")
        for name, other in randomized(model, seed=2)
    }
    for name, similarities in results:
        assert torch.equal(similarities["map"], expected[name])
    assert is_unchanged(model, before)
