"""AttnLRP: conservation, twins, presets, notes and the state that it leaves."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack as mode_stack

from semattn import AttnLRP, InputXGradient
from semattn.affinity import random_walk
from semattn.attention import record
from semattn.attention.propagation import PropagationMode
from semattn.attention.rule_registry import RuleSettings
from semattn.evaluation.methods import method
from semattn.images import Preprocessing, prepare
from semattn.metrics.conservation import conservation_error
from tests import families
from tests.models import build, images, state_of

TARGET = [1, 3]


def without_biases(name: str) -> nn.Module:
    """Return a model without biases and position embeddings, in float64."""
    model = build(name, torch.float64)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            is_constant = path.endswith(("bias", "pos_embed", "cls_token"))
            parameter.mul_(not is_constant)
    return model


@pytest.mark.parametrize("name", ["gap", "class-token", "qk-norm", "rope", "unfused"])
@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
def test_constant_attention_conserves_the_score(name: str, gamma: float) -> None:
    model, x = without_biases(name), images(dtype=torch.float64)
    explainer = AttnLRP(attention="cp-lrp", gamma=gamma, conv_gamma=gamma)
    relevance = explainer.attribute(model, x, target=TARGET)
    score = model(x)[[0, 1], TARGET].detach()
    torch.testing.assert_close(relevance.sum((1, 2, 3)), score, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"preset": "epsilon"}, {"attention": "cp-lrp"}])
def test_fused_and_unfused_attention_have_one_map(options: dict[str, Any]) -> None:
    x = images(dtype=torch.float64)
    fused, unfused = (
        AttnLRP(**options).attribute(build(name, torch.float64), x, target=TARGET)
        for name in ("class-token", "unfused")
    )
    torch.testing.assert_close(fused, unfused, atol=1e-12, rtol=1e-9)
    assert (fused < 0).any() and (fused > 0).any()


class _Flipped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flip(-1))


def test_a_flip_inside_the_model_flips_the_map() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    expected = AttnLRP().attribute(model, x, target=TARGET)
    flipped = AttnLRP().attribute(_Flipped(model), x.flip(-1), target=TARGET)
    torch.testing.assert_close(flipped.flip(-1), expected)


def test_channels_are_kept_apart_and_sum_to_the_map() -> None:
    model, x = build("gap"), images()
    explanation = AttnLRP().explain(model, x, target=TARGET)
    attribution = AttnLRP().attribute(model, x, target=TARGET)
    assert torch.equal(attribution, explanation.attribution)
    assert not torch.equal(attribution[:, 0], attribution[:, 1])
    means = attribution.sum(1).unflatten(1, (3, 16)).unflatten(3, (4, 16)).mean((2, 4))
    torch.testing.assert_close(explanation.patch_map, means)
    plain = InputXGradient().attribute(model, x, target=TARGET)
    assert not torch.allclose(attribution, plain, rtol=0.1)


def test_localization_is_the_refined_positive_part() -> None:
    model, x = build("class-token"), images()
    signed = AttnLRP().patch_map(model, x, target=TARGET)
    refined = AttnLRP(preset="localization").explain(model, x, target=TARGET)
    attention = record(model, x, target=TARGET, grad="last")
    positive = signed.clamp(min=0).flatten(1)[..., None]
    expected = random_walk(attention.middle_layer(), attention.grid, positive, 0.9)
    torch.testing.assert_close(refined.patch_map, expected.view(-1, 3, 4))
    assert refined.patch_map.min() >= 0 and refined.attribution is None
    assert AttnLRP(preset="localization", affinity=0.5).parameters()["affinity"] == 0.5


def layer_relevance(model: nn.Module, x: Tensor, rules: RuleSettings) -> tuple[Tensor, Tensor]:
    """Return tensor times gradient of the input of the blocks, (B, N), and the scores (B,)."""
    model.requires_grad_(False)
    tokens: list[Tensor] = []
    first = model.blocks[0]
    handle = first.register_forward_pre_hook(lambda _, args: tokens.append(args[0]))
    with PropagationMode(rules):
        scores = model(x.clone().requires_grad_())[[0, 1], TARGET]
        (gradient,) = torch.autograd.grad(scores.sum(), tokens[0])
    handle.remove()
    return (tokens[0] * gradient).detach().sum(dim=2), scores.detach()


@pytest.mark.parametrize("name", ["class-token", "registers", "gap", "rope"])
def test_patches_are_the_input_of_the_first_layer_times_its_gradient(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    explanation = AttnLRP(level="patches").explain(model, x, target=TARGET)
    tokens, scores = layer_relevance(model, x, AttnLRP().rules)
    torch.testing.assert_close(explanation.patch_map.flatten(1), tokens[:, -12:])
    assert (explanation.patch_map < 0).any() and explanation.attribution is None
    torch.testing.assert_close(explanation.conservation, tokens.sum(dim=1) / scores)
    assert explanation.manifest["conservation"] == explanation.conservation.tolist()
    assert explanation.manifest["parameters"]["level"] == "patches"


@pytest.mark.parametrize("level", ["pixels", "patches"])
@pytest.mark.parametrize("name", ["gap", "qk-norm", "rope"])
def test_conservation_of_the_epsilon_rule_without_biases(name: str, level: str) -> None:
    model, x = without_biases(name), images(dtype=torch.float64)
    explainer = AttnLRP(preset="epsilon", attention="cp-lrp", level=level)
    ratio = explainer.explain(model, x, target=TARGET).conservation
    assert bool((conservation_error(ratio) < 0.05).all())


def test_the_metric_is_that_of_the_explanation() -> None:
    model, x = build("class-token"), images()[:1]
    pixels = prepare(x, lambda: Preprocessing.of(model))
    explanation = AttnLRP().explain(model, x, target=3)
    lrp_map = method("attn-lrp")(model, pixels, 3)
    assert torch.equal(lrp_map.conservation, explanation.conservation)
    assert method("raw-attention")(model, pixels, 3).conservation is None


def test_patches_of_a_windowed_model_are_in_their_places() -> None:
    model, x = families.build("swin", torch.float64), images(dtype=torch.float64)
    explainer = AttnLRP(level="patches", gamma=0)
    expected = explainer.patch_map(model, x, target=TARGET)
    flipped = explainer.patch_map(_Flipped(model), x.flip(-1), target=TARGET)
    assert expected.shape[1:] == (12, 16)
    torch.testing.assert_close(flipped.flip(-1), expected)


def test_presets_and_invalid_options() -> None:
    assert AttnLRP().parameters() | {"gamma": 0.0} == AttnLRP(gamma=0).parameters()
    epsilon = AttnLRP(preset="epsilon").parameters()
    assert (epsilon["gamma"], epsilon["conv_gamma"], epsilon["epsilon"]) == (0, 0, 1e-6)
    for options, message in (
        ({"preset": "best"}, "preset: expected one of signed, epsilon, localization, got 'best'"),
        ({"level": "tokens"}, "level: expected one of pixels, patches, got 'tokens'"),
        ({"attention": "none"}, "attention: expected one of attn-lrp, cp-lrp, got 'none'"),
        ({"gamma": -1}, "gamma: expected"),
        ({"affinity": 1.0}, r"affinity: expected a number in \[0, 1\), got 1.0"),
        ({"layers": [1]}, "layers: expected None for attn-lrp"),
    ):
        with pytest.raises(ValueError, match=message):
            AttnLRP(**options)


class _Activated(nn.Module):
    """A model that computes an activation without a rule on its pixels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.1 * torch.sinc(x))


def test_a_call_without_a_rule_has_a_note() -> None:
    explanation = AttnLRP().explain(_Activated(build("class-token")), images(), target=TARGET)
    note = "No propagation rule exists for Sinc; the gradient was used there."
    assert explanation.notes == (note,)
    assert AttnLRP().explain(build("class-token"), images(), target=TARGET).notes == ()


class _Scaled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.inner(x * scale)


def test_other_arguments_are_constants_even_if_they_require_gradients() -> None:
    model, x = _Scaled(build("class-token")), images()
    scale = torch.full((1, 3, 48, 64), 0.5)
    maps = [
        AttnLRP(model).attribute(x, TARGET, additional_forward_args=(value,))
        for value in (scale, scale.clone().requires_grad_())
    ]
    assert torch.equal(*maps)


def test_gradient_checkpointing_does_not_change_the_map() -> None:
    model, x = timm.create_model("test_vit", img_size=64, num_classes=5).eval(), images(2)
    x = nn.functional.pad(x, (0, 0, 0, 16))
    expected = AttnLRP().attribute(model, x, target=TARGET)
    model.set_grad_checkpointing()
    torch.testing.assert_close(AttnLRP().attribute(model, x, target=TARGET), expected)


@pytest.mark.parametrize("level", ["pixels", "patches"])
def test_state_is_left_after_an_exception_in_the_pass_with_rules(level: str) -> None:
    model, x = build("class-token"), images()
    AttnLRP(level=level).attribute(model, x, target=TARGET)
    passes: list[int] = []

    def fail(*_: object) -> None:
        passes.append(1)
        raise RuntimeError("inside the model")

    model.blocks[3].register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="inside the model"):
        AttnLRP(level=level).attribute(model, x, target=TARGET)
    assert len(passes) == 1 and mode_stack() == [] and state_of(model) == before


@pytest.mark.parametrize("level", ["pixels", "patches"])
@pytest.mark.parametrize("target", [None, TARGET])
def test_later_calls_run_one_pass_and_give_the_same_map(level: str, target: Any) -> None:
    model, x = families.build("swin"), images()
    explainer = AttnLRP(level=level)
    first = explainer.explain(model, x, target=target)
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    explainer.explain(model, x, target=target)  # the hook is new, so the layout is computed again
    passes.clear()
    second = explainer.explain(model, x, target=target)
    assert len(passes) == (1 if level == "pixels" else 2)  # windows are traced in another pass
    assert torch.equal(first.heat_map, second.heat_map) and first.grid == second.grid
    assert torch.equal(first.target, second.target) and first.notes == second.notes
    assert torch.equal(first.logits, second.logits)
    torch.testing.assert_close(first.logits, model(x).detach())


class _Blocked(nn.Module):
    """A model whose middle layers run without gradients."""

    def __init__(self, inner: nn.Module, is_blocked: bool) -> None:
        super().__init__()
        self.inner, self.is_blocked = inner, is_blocked

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_blocked):
            return self.inner(x)


@pytest.mark.parametrize("level", ["pixels", "patches"])
def test_relevance_passes_through_parts_without_gradients(level: str) -> None:
    maps = [
        AttnLRP(level=level).patch_map(
            _Blocked(build("class-token"), is_blocked), images(), target=TARGET
        )
        for is_blocked in (False, True)
    ]
    torch.testing.assert_close(*maps)
