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


def test_presets_and_invalid_options() -> None:
    assert AttnLRP().parameters() | {"gamma": 0.0} == AttnLRP(gamma=0).parameters()
    epsilon = AttnLRP(preset="epsilon").parameters()
    assert (epsilon["gamma"], epsilon["conv_gamma"], epsilon["epsilon"]) == (0, 0, 1e-6)
    for options, message in (
        ({"preset": "best"}, "preset: expected one of signed, epsilon, localization, got 'best'"),
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


def test_state_is_left_after_an_exception_in_the_second_pass() -> None:
    model, x = build("class-token"), images()
    AttnLRP().attribute(model, x, target=TARGET)
    passes: list[int] = []

    def fail(*_: object) -> None:
        passes.append(1)
        if len(passes) == 2:
            raise RuntimeError("inside the model")

    model.blocks[3].register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="inside the model"):
        AttnLRP().attribute(model, x, target=TARGET)
    assert len(passes) == 2 and mode_stack() == [] and state_of(model) == before
