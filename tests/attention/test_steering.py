"""Steering is exact and additive, appears in records, and leaves no trace afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from semattn.attention import record, steer
from semattn.errors import ShapeError
from tests.models import MODELS, build, images, state_of

TOKENS = {"registers": 17, "relative-bias": 13, "unfused": 13, "rope": 13, "gap": 12}


def _bias(tokens: int, seed: int = 0) -> Tensor:
    return torch.randn(2, tokens, generator=torch.manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", TOKENS)
def test_bias_equals_renormalised_attention(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    bias = _bias(TOKENS[name])
    plain = record(model, x, grad=False).dense(0)
    with steer(model, bias, layers=0):
        steered = record(model, x, grad=False).dense(0)
    expected = plain * bias.exp()[:, None, None]
    torch.testing.assert_close(
        steered, expected / expected.sum(-1, keepdim=True), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("name", MODELS)
def test_steered_logits_are_those_of_the_steered_record(name: str) -> None:
    model, x = build(name).requires_grad_(False), images()  # the same kernels throughout
    tokens = record(model, x, grad=False).grid.tokens
    bias = _bias(tokens).float()
    with torch.no_grad():
        plain = model(x)
        with steer(model, bias):
            steered = model(x)
            assert torch.equal(record(model, x, target=0).logits, steered)
        assert not torch.allclose(steered, plain)
        assert torch.equal(model(x), plain)


def test_a_zero_bias_changes_nothing_but_rounding() -> None:
    model, x = build("registers"), images()
    with steer(model, torch.zeros(17)):
        torch.testing.assert_close(model(x), build("registers")(x))


def test_contexts_nest_and_add() -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)
    first, second = _bias(17, 1), _bias(17, 2)
    with steer(model, first + second):
        together = model(x)
    with steer(model, first), steer(model, second):
        nested = model(x)
    torch.testing.assert_close(together, nested, atol=1e-12, rtol=0)


def test_layers_and_heads_are_chosen() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    bias = _bias(13)
    plain = record(model, x, grad=False)
    with steer(model, bias, layers=[2], heads=[1]):
        steered = record(model, x, grad=False)
    assert torch.equal(steered.dense(1), plain.dense(1))
    torch.testing.assert_close(steered.dense(2)[:, 0], plain.dense(2)[:, 0])
    assert not torch.allclose(steered.dense(2)[:, 1], plain.dense(2)[:, 1])
    expected = plain.dense(2)[:, 1] * bias.exp()[:, None]
    torch.testing.assert_close(steered.dense(2)[:, 1], expected / expected.sum(-1, keepdim=True))


def test_a_bias_per_key_is_never_expanded() -> None:
    model, x = build("class-token"), images()
    with steer(model, torch.ones(2, 13)):
        recorded = record(model, x, grad=False)
    masks = [site_record.mask for site_record in recorded.sites]
    assert all(mask is not None and mask.shape == (2, 1, 1, 13) for mask in masks)


def test_gradients_flow_to_the_bias() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    bias = _bias(13).requires_grad_()

    def logit(bias: Tensor) -> Tensor:
        with steer(model, bias):
            return model(x)[:, 0].sum()

    assert torch.autograd.gradcheck(logit, (bias,))


def test_nothing_is_left_after_success_or_failure() -> None:
    model, x = build("class-token"), images()
    before = state_of(model)
    with steer(model, torch.zeros(13)):
        model(x)
    assert state_of(model) == before
    with pytest.raises(ShapeError), steer(model, torch.zeros(12)):
        model(x)
    assert state_of(model) == before
    with pytest.raises(KeyboardInterrupt), steer(model, torch.zeros(13)):
        raise KeyboardInterrupt
    assert state_of(model) == before


def test_a_module_that_raises_leaves_no_mode_for_the_rest_of_the_model() -> None:
    model, x = build("class-token"), images()
    model.blocks[1].attn.proj.register_forward_hook(_explode)
    with steer(model, torch.zeros(13)):
        with pytest.raises(RuntimeError, match="inside the model"):
            model(x)
        assert torch.overrides._get_current_function_mode_stack() == []


def _explode(*_: object) -> None:
    raise RuntimeError("inside the model")


@pytest.mark.parametrize(
    ("bias", "options", "words"),
    [
        (torch.full((13,), torch.nan), {}, "bias: expected finite"),
        (torch.zeros(2, 2, 13), {}, r"bias: expected \(N,\), \(B, N\)"),
        (torch.zeros(13), {"layers": 7}, "layers: expected numbers"),
        (torch.zeros(13), {"heads": [2]}, "heads: expected numbers in 0 … 1"),
        (torch.zeros(3, 13), {}, "bias: expected a shape that broadcasts to attention"),
    ],
)
def test_wrong_biases_are_one_clear_line(bias: Tensor, options: dict, words: str) -> None:
    model = build("class-token")
    with pytest.raises(ValueError, match=words), steer(model, bias, **options):
        model(images())
