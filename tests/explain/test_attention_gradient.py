"""Gradients of attention under the rules of relevance propagation, against layer-wise relevance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack as mode_stack

from semattn import SIFTPatchInterrelation, explainers, record
from semattn.attention import RuleSettings
from semattn.attention.propagation import PropagationMode
from semattn.attention.rule_registry import DEFAULT_RULES
from semattn.explain.attention_gradient import AttentionGradientExplainer
from tests import oracles
from tests.models import build, images, state_of
from tests.oracles_propagation import dense_record_under_rules, legrad_under_rules

TARGET = [1, 3]
METHODS = [name for name, cls in explainers.items() if issubclass(cls, AttentionGradientExplainer)]
FIVE = {
    "sift-patch-interrelation", "gradient-rollout", "generic-relevance", "legrad",
    "transition-attention",
}  # fmt: skip
each_method = pytest.mark.parametrize("name", METHODS)


def rules(gamma: float) -> RuleSettings:
    return dataclasses.replace(DEFAULT_RULES, gamma=gamma, conv_gamma=gamma)


def test_all_methods_that_use_the_gradient_of_attention_have_the_option() -> None:
    assert set(METHODS) == FIVE


@pytest.mark.parametrize("name", ["class-token", "unfused"])
@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
def test_gradients_of_attention_equal_layerwise_relevance(name: str, gamma: float) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    expected = dense_record_under_rules(model, x, TARGET, gamma)
    actual = record(model, x, target=TARGET, rules=rules(gamma))
    assert torch.equal(actual.logits, model(x)) and actual.notes == ()
    torch.testing.assert_close(expected.logits, actual.logits)
    for site, attention, gradient in zip(
        actual.sites, expected.attention, expected.gradient, strict=True
    ):
        torch.testing.assert_close(site.attention(), attention)
        scale = gradient.abs().amax()
        torch.testing.assert_close(
            site.attention_gradient() / scale, gradient / scale, atol=1e-9, rtol=0
        )


def _rows(row: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("bi,bij->bj", row, matrix)


def _generic_relevance(dense: oracles.DenseRecord, row: Tensor) -> Tensor:
    return _rows(row, oracles.generic_relevance(dense)) - row


def _gradient_rollout(dense: oracles.DenseRecord, row: Tensor) -> Tensor:
    product, never_moved = oracles.gradient_rollout(dense)
    return _rows(row, product) - row * never_moved


MAPS: dict[str, Callable[[oracles.DenseRecord, Tensor], Tensor]] = {
    "generic-relevance": _generic_relevance,
    "gradient-rollout": _gradient_rollout,
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_equal_those_of_the_oracle_with_the_gradients(name: str) -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    dense = dense_record_under_rules(model, x, TARGET, 0.05)
    expected = MAPS[name](dense, oracles.readout(dense))[:, 1:]
    actual = explainers[name](gradient="lrp").patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual / expected.amax(), expected / expected.amax())


def test_interrelation_equals_the_oracle_with_the_gradients() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    s = torch.rand(2, 12, generator=torch.manual_seed(3), dtype=torch.float64)
    p = s + 0.1 * s.mean(-1, keepdim=True)
    expected = oracles.interrelation(
        dense_record_under_rules(model, x, TARGET, 0.25), p / p.sum(-1, keepdim=True),
        layers=[2, 3], prefix=1, class_token=True, queries="auto", query_weights=True,
        head_alignment=True,
    )  # fmt: skip
    explainer = SIFTPatchInterrelation(density=s, affinity=0, gradient=rules(0.25))
    actual = explainer.patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual / expected.amax(), expected / expected.amax())


def test_legrad_equals_the_oracle_under_rules() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    expected = legrad_under_rules(model, x, TARGET, 0.05)[:, 1:]
    actual = explainers["legrad"](gradient="lrp").patch_map(model, x, target=TARGET).flatten(1)
    torch.testing.assert_close(actual / expected.amax(), expected / expected.amax())


@each_method
@pytest.mark.parametrize("model_name", ["class-token", "gap", "attention-pool", "rope"])
def test_fused_and_unfused_attention_have_one_map(name: str, model_name: str) -> None:
    x = images(dtype=torch.float64)
    options: dict[str, Any] = {"affinity": 0} if name == "sift-patch-interrelation" else {}
    maps = []
    for is_fused in (True, False):
        model = build(model_name, torch.float64)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = is_fused
        explainer = explainers[name](gradient="lrp", **options)
        maps.append(explainer.attribute(model, x, target=TARGET))
    torch.testing.assert_close(*maps, atol=1e-12, rtol=1e-9)


@each_method
def test_the_default_is_the_plain_gradient(name: str) -> None:
    model, x = build("class-token"), images()
    default = explainers[name]().explain(model, x, target=TARGET)
    plain, lrp = (
        explainers[name](gradient=gradient).explain(model, x, target=TARGET)
        for gradient in ("plain", "lrp")
    )
    assert torch.equal(default.heat_map, plain.heat_map)
    assert not torch.allclose(lrp.heat_map, plain.heat_map, rtol=0.1)
    for explanation, gradient in ((default, "plain"), (plain, "plain"), (lrp, "lrp")):
        assert explanation.manifest["parameters"]["gradient"] == gradient
    settings = explainers[name](gradient=rules(0.25)).parameters()["gradient"]
    assert settings["gamma"] == 0.25 and json.dumps(settings)
    with pytest.raises(ValueError, match="gradient: expected one of plain, lrp, got 'guided'"):
        explainers[name](gradient="guided")


def test_rules_with_constant_attention_are_refused() -> None:
    constant = dataclasses.replace(DEFAULT_RULES, attention="cp-lrp")
    with pytest.raises(ValueError, match="rules: expected attention='attn-lrp', got 'cp-lrp'"):
        SIFTPatchInterrelation(gradient=constant).attribute(build("class-token"), images())


def test_the_model_without_sift_keeps_the_gradient() -> None:
    assert SIFTPatchInterrelation(gradient="lrp").model_only().gradient == "lrp"


class _Gated(nn.Module):
    """Attention whose result is multiplied by a gate that depends on its input."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return self.attention(x, **options) * x.sigmoid()


def test_the_gradient_of_a_layer_does_not_depend_on_the_recorded_layers() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    for block in model.blocks:
        block.attn = _Gated(block.attn)
    for gradient_rules in (DEFAULT_RULES, None):
        every, last = (
            record(model, x, target=TARGET, layers=layers, rules=gradient_rules).sites[-1]
            for layers in ("all", [3])
        )
        assert torch.equal(every.gradient, last.gradient)


class _BeforeAndAfter(nn.Module):
    """Model with calls without a rule: `before` on the pixels, and `after` on the logits."""

    def __init__(self, before: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner = build("class-token")
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))


@each_method
def test_calls_without_a_rule_after_the_attention_are_named(name: str) -> None:
    model = _BeforeAndAfter(lambda x: x + 0.1 * torch.sinc(x), lambda y: y + torch.digamma(y * y))
    explanation = explainers[name](gradient="lrp").explain(model, images(), target=TARGET)
    note = "No propagation rule exists for Digamma; the gradient was used there."
    assert [text for text in explanation.notes if "rule" in text] == [note]
    plain = explainers[name]().explain(model, images(), target=TARGET)
    assert not any("rule" in text for text in plain.notes)


def test_a_model_may_change_its_images_in_place() -> None:
    model, x = _BeforeAndAfter(lambda x: x.sub_(0.1).mul_(2), lambda y: y), images()
    before, expected = x.clone(), images().sub_(0.1).mul_(2)
    actual = SIFTPatchInterrelation(gradient="lrp").attribute(model, x, target=TARGET)
    assert torch.equal(x, before) and not x.requires_grad
    inner = SIFTPatchInterrelation(gradient="lrp", density="uniform").patch_map(
        model.inner, expected, target=TARGET
    )
    uniform = SIFTPatchInterrelation(gradient="lrp", density="uniform")
    assert torch.equal(uniform.patch_map(model, x, target=TARGET), inner)
    assert actual.isfinite().all()


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = build("class-token")

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.inner(x) * scale


def test_other_arguments_are_constants() -> None:
    maps = [
        SIFTPatchInterrelation(_Scaled(), gradient="lrp").attribute(
            images(), TARGET, additional_forward_args=(scale,)
        )
        for scale in (torch.tensor(2.0), torch.tensor(2.0, requires_grad=True))
    ]
    assert torch.equal(*maps) and maps[0].abs().sum() > 0


@each_method
def test_modes_and_hooks_are_restored_after_an_exception(name: str) -> None:
    model, x = build("class-token"), images()
    explainers[name](gradient="lrp").attribute(model, x, target=TARGET)

    def fail(*_: Any) -> None:
        if any(isinstance(mode, PropagationMode) for mode in mode_stack()):
            raise ValueError("inside the model")

    model.blocks[3].register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(ValueError, match="inside the model"):
        explainers[name](gradient="lrp").attribute(model, x, target=TARGET)
    assert mode_stack() == [] and state_of(model) == before
    assert explainers[name]().attribute(model, x, target=TARGET).isfinite().all()
