"""Rules of relevance propagation against their definitions, in terms of relevance, in float64."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack as mode_stack

from semattn.attention.propagation import PropagationMode, calls_without_rule
from semattn.attention.rule_registry import RULES, RuleSettings
from semattn.attention.scope import model_running, nested_pass
from semattn.errors import UnsupportedModelError
from tests.models import MODELS, build, images

EPSILON_RULE = RuleSettings(gamma=0.0, conv_gamma=0.0, epsilon=0.0, attention="attn-lrp")
GAMMA_RULE = RuleSettings(gamma=0.3, conv_gamma=0.7, epsilon=0.0, attention="attn-lrp")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(seed))


def propagate(
    function: Callable[..., Tensor],
    *inputs: Tensor,
    settings: RuleSettings = EPSILON_RULE,
    relevance: Tensor | None = None,
) -> list[Tensor]:
    """Return the relevance of each input; that of the result is random, or as given."""
    variables = [tensor.clone().requires_grad_() for tensor in inputs]
    with PropagationMode(settings):
        result = function(*variables)
        assert calls_without_rule(result) == ()
    assert torch.equal(result, function(*(tensor.clone() for tensor in inputs)))
    if relevance is None:
        relevance = rand(*result.shape, seed=9)
    gradient = relevance / result.detach()
    gradients = torch.autograd.grad(result, variables, gradient, allow_unused=True)
    return [
        torch.zeros_like(tensor) if value is None else tensor * value
        for tensor, value in zip(inputs, gradients, strict=True)
    ]


def gamma_rule(
    inputs: Tensor, weight: Tensor, bias: Tensor, relevance: Tensor, gamma: float, epsilon: float
) -> Tensor:
    """Relevance of `inputs` (I,) of one linear layer, contribution by contribution."""
    total = torch.zeros_like(inputs)
    for row, offset, amount in zip(weight, bias, relevance, strict=True):
        parts = torch.cat([inputs * row, offset[None]])
        result = parts.sum()
        parts = parts + gamma * parts * (parts.sign() == result.sign())
        denominator = parts.sum() + epsilon * result.sign()
        total += parts[:-1] / denominator * amount
    return total


@pytest.mark.parametrize("gamma", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("form", ["linear", "matmul", "operator", "addmm", "conv"])
def test_linear_layers_obey_the_gamma_rule(gamma: float, epsilon: float, form: str) -> None:
    inputs, weight, bias = rand(3, 4), rand(5, 4, seed=1), rand(5, seed=2)
    relevance = rand(3, 5, seed=9)
    settings = RuleSettings(gamma, gamma, epsilon, "attn-lrp")
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda x: F.linear(x, weight, bias),
        "matmul": lambda x: torch.matmul(x, weight.t()),
        "operator": lambda x: x @ weight.t(),
        "addmm": lambda x: torch.addmm(bias, x, weight.t()),
        "conv": lambda x: F.conv2d(x.view(3, 1, 2, 2), weight.view(5, 1, 2, 2), bias).flatten(1),
    }
    if form in ("matmul", "operator"):
        bias = torch.zeros_like(bias)
    (actual,) = propagate(functions[form], inputs, settings=settings, relevance=relevance)
    expected = [
        gamma_rule(row, weight, bias, amount, gamma, epsilon)
        for row, amount in zip(inputs, relevance, strict=True)
    ]
    torch.testing.assert_close(actual, torch.stack(expected))


def test_two_layers_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0]])
    first, second = torch.tensor([[3.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0]])

    def network(x: Tensor) -> Tensor:  # hidden units 1 and 3, score 4
        return F.linear(F.relu(F.linear(x, first)), second)

    score = torch.tensor([[4.0]])
    (plain,) = propagate(network, x, relevance=score)
    torch.testing.assert_close(plain, torch.tensor([[3.0 + 1, -2.0 + 2]]))
    # With gamma 1 the contributions 3, -2 to unit 1 count as 6, -2, of which 6/4 and -2/4.
    settings = RuleSettings(1.0, 1.0, 0.0, "attn-lrp")
    (doubled,) = propagate(network, x, settings=settings, relevance=score)
    torch.testing.assert_close(doubled, torch.tensor([[1.5 + 1, -0.5 + 2]]))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu, tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu by hand": lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "gelu, tanh by hand": lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
    ),
    "silu": F.silu,
    "silu by hand": lambda x: x * x.sigmoid(),
    "silu in place": lambda x: F.silu(x * 1.0, inplace=True),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "quick gelu in place": lambda x: x.mul(torch.sigmoid(1.702 * x)),
    "relu": F.relu,
    "relu in place": lambda x: (x * 1.0).relu_(),
    "hardswish": F.hardswish,
    "mish": F.mish,
    "tanh": torch.tanh,
    "square": lambda x: x**2,
    "square by hand": lambda x: x * x,
    "module": nn.GELU(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_obey_the_identity_rule(name: str) -> None:
    x = rand(3, 7)
    relevance = rand(3, 7, seed=9)
    if "relu" in name:  # no relevance where the result is 0
        x = x.abs()
    (actual,) = propagate(ACTIVATIONS[name], x, relevance=relevance)
    torch.testing.assert_close(actual, relevance)


@pytest.mark.parametrize("function", [torch.sigmoid, F.softplus, F.hardsigmoid, torch.exp])
def test_activations_with_an_offset_give_the_rest_to_the_input(function: Any) -> None:
    x = torch.cat([rand(40), torch.tensor([0.0, 1e-9, -1e-7]).double()])
    relevance = rand(43, seed=9)
    (actual,) = propagate(function, x, relevance=relevance)
    zero = function(torch.zeros((), dtype=torch.float64))
    expected = relevance * (1 - zero / function(x))
    torch.testing.assert_close(actual, expected, atol=1e-7, rtol=1e-6)


def test_the_slope_of_an_offset_activation_at_zero_is_its_derivative() -> None:
    x = torch.tensor([0.0, 1e-12], dtype=torch.float64, requires_grad=True)
    with PropagationMode(EPSILON_RULE):
        result = torch.sigmoid(x)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.25))


NORMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "layer norm": lambda x, w: F.layer_norm(x, (8,), w, None, 1e-3),
    "by hand": lambda x, w: (
        (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-3).sqrt() * w
    ),
    "by rsqrt": lambda x, w: (
        (x - x.mean(-1, keepdim=True))
        * torch.rsqrt((x - x.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True) + 1e-3)
        * w
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_layer_norm_has_a_constant_deviation(name: str) -> None:
    x, weight, relevance = rand(3, 8), rand(8, seed=1), rand(3, 8, seed=9)
    (actual,) = propagate(lambda x: NORMS[name](x, weight), x, relevance=relevance)
    centred = x - x.mean(-1, keepdim=True)
    expected = torch.zeros_like(x)
    for image in range(3):
        for i in range(8):  # x_i contributes to every difference from the mean
            for k in range(8):
                part = x[image, i] * ((i == k) - 1 / 8)
                expected[image, i] += part / centred[image, k] * relevance[image, k]
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(actual.sum(-1), relevance.sum(-1))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.rms_norm(x, (8,), rand(8, seed=1), 1e-3),
        lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3),
        lambda x: x / x.square().mean(-1, keepdim=True).sqrt(),
        lambda x: F.normalize(x, dim=-1),
        lambda x: x / x.norm(dim=-1, keepdim=True),
        lambda x: x / (1 + x.abs().mean(-1, keepdim=True)),
        lambda x: F.batch_norm(x, torch.zeros(8).double(), torch.ones(8).double(), rand(8)),
    ],
)
def test_norms_without_a_mean_pass_all_relevance(function: Any) -> None:
    relevance = rand(3, 8, seed=9)
    (actual,) = propagate(function, rand(3, 8), relevance=relevance)
    torch.testing.assert_close(actual, relevance)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.group_norm(x, 2, rand(4, seed=1)),
        lambda x: F.instance_norm(x, weight=rand(4, seed=1)),
        lambda x: F.batch_norm(x, None, None, rand(4, seed=1), training=True),
    ],
)
def test_norms_of_channels_conserve_relevance(function: Any) -> None:
    relevance = rand(2, 4, 3, 3, seed=9)
    (actual,) = propagate(function, rand(2, 4, 3, 3), relevance=relevance)
    torch.testing.assert_close(actual.sum(), relevance.sum())


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a * b,
        lambda a, b: torch.mul(a, b),
        lambda a, b: (a * 1).mul_(b),
        lambda a, b: torch.einsum("ij,ij->ij", a, b),
        lambda a, b: torch.addcmul(torch.zeros(3, 5).double(), a, b),
    ],
)
def test_a_product_shares_relevance_equally(function: Any) -> None:
    relevance = rand(3, 5, seed=9)
    left, right = propagate(function, rand(3, 5), rand(3, 5, seed=1), relevance=relevance)
    torch.testing.assert_close(left, relevance / 2)
    torch.testing.assert_close(right, relevance / 2)


def test_gated_units() -> None:
    gates, values, relevance = rand(3, 5), rand(3, 5, seed=1), rand(3, 5, seed=9)
    swiglu = propagate(lambda a, b: F.silu(a) * b, gates, values, relevance=relevance)
    torch.testing.assert_close(swiglu, [relevance / 2, relevance / 2])
    joined = torch.cat([values, gates], dim=-1)
    (glu,) = propagate(F.glu, joined, relevance=relevance)
    of_gates = relevance / 2 * (1 - 0.5 / gates.sigmoid())
    torch.testing.assert_close(glu, torch.cat([relevance / 2, of_gates], dim=-1))
    by_hand = propagate(lambda a, b: a * torch.sigmoid(b), values, gates, relevance=relevance)
    torch.testing.assert_close(torch.cat(by_hand, dim=-1), glu)


def attention_by_rules(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, relevance: Tensor
) -> list[Tensor]:
    """Relevance of q, k and v (N, D) by the rules of the paper for each of the three steps."""
    scores = query @ key.t() / math.sqrt(query.shape[1]) + bias
    weights = scores.softmax(-1)
    share = relevance / (2 * (weights @ value))  # of each product A_ij v_jd
    of_value = value * (weights.t() @ share)
    of_weights = weights * (share @ value.t())
    of_scores = scores * (of_weights - weights * of_weights.sum(-1, keepdim=True))
    share = of_scores / (2 * scores) / math.sqrt(query.shape[1])
    return [query * (share @ key), key * (share.t() @ query), of_value]


def _exponentials(scores: Tensor) -> Tensor:
    exponentials = scores.exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


SCALE = 1 / math.sqrt(4)
ATTENTION: dict[str, Callable[..., Tensor]] = {
    "fused": lambda q, k, v, b: F.scaled_dot_product_attention(q, k, v, attn_mask=b),
    "matmul": lambda q, k, v, b: (q * SCALE @ k.transpose(-2, -1) + b).softmax(-1) @ v,
    "einsum": lambda q, k, v, b: torch.einsum(
        "bhij,bhjd->bhid",
        torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * SCALE + b, dim=-1),
        v,
    ),
    "exponentials": lambda q, k, v, b: _exponentials(q @ k.mT * SCALE + b) @ v,
    "exponential of the logarithm": lambda q, k, v, b: (
        (q @ k.mT * SCALE + b).log_softmax(-1).exp() @ v
    ),
    "bmm": lambda q, k, v, b: torch.bmm(
        F.softmax(torch.baddbmm(b, q[0] * SCALE, k[0].mT), dim=-1), v[0]
    )[None],
}


@pytest.mark.parametrize("form", ATTENTION)
def test_attention_obeys_the_rules_of_the_paper(form: str) -> None:
    q, k, v = (rand(1, 2, 5, 4, seed=seed) for seed in range(3))
    bias, relevance = rand(5, 5, seed=3), rand(1, 2, 5, 4, seed=9)
    actual = propagate(lambda q, k, v: ATTENTION[form](q, k, v, bias), q, k, v, relevance=relevance)
    for head in range(2):
        tensors = (q[0, head], k[0, head], v[0, head], bias, relevance[0, head])
        for part, expected in zip(actual, attention_by_rules(*tensors), strict=True):
            torch.testing.assert_close(part[0, head], expected)


def test_constant_attention_gives_all_relevance_to_the_values() -> None:
    q, k, v = (rand(1, 2, 5, 4, seed=seed) for seed in range(3))
    settings = RuleSettings(0.0, 0.0, 0.0, "cp-lrp")
    relevance = rand(1, 2, 5, 4, seed=9)
    bias = rand(5, 5, seed=3)
    for form in ("fused", "matmul", "bmm"):
        function = ATTENTION[form]
        parts = propagate(
            lambda q, k, v, function=function: function(q, k, v, bias),
            q, k, v, settings=settings, relevance=relevance,
        )  # fmt: skip
        assert not parts[0].any() and not parts[1].any()
        torch.testing.assert_close(parts[2].sum((0, 1, 2)), relevance.sum((0, 1, 2)))


def test_constant_queries_leave_half_to_the_keys() -> None:
    q, k, v = (rand(1, 2, 5, 4, seed=seed) for seed in range(3))
    relevance = rand(1, 2, 5, 4, seed=9)
    fused, by_hand = (
        propagate(
            lambda k, v, form=form: ATTENTION[form](q, k, v, torch.zeros(5, 5).double()),
            k, v, relevance=relevance, settings=GAMMA_RULE,
        )
        for form in ("fused", "matmul")
    )  # fmt: skip
    torch.testing.assert_close(fused, by_hand)
    twice = propagate(lambda q, k, v: ATTENTION["fused"](q, k, v, None), q, k, v,
                      relevance=relevance)  # fmt: skip
    torch.testing.assert_close(fused[0], 2 * twice[1])


@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention_of_pytorch_is_read_by_its_parts(need_weights: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True).double().requires_grad_(False)
    nn.init.normal_(module.in_proj_bias)

    def by_hand(x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (2, 4)).transpose(1, 2)
            for part in F.linear(x, module.in_proj_weight, module.in_proj_bias).chunk(3, dim=-1)
        )
        heads = F.scaled_dot_product_attention(q, k, v)
        return module.out_proj(heads.transpose(1, 2).flatten(2))

    x = rand(2, 5, 8)
    variable = x.clone().requires_grad_()
    relevance = rand(2, 5, 8, seed=9)
    with PropagationMode(GAMMA_RULE):
        result = module(variable, variable, variable, need_weights=need_weights)[0]
    (gradient,) = torch.autograd.grad(result, variable, relevance / result.detach())
    (expected,) = propagate(by_hand, x, settings=GAMMA_RULE, relevance=relevance)
    torch.testing.assert_close(x * gradient, expected)


def test_a_linear_network_has_input_times_gradient() -> None:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 6, 4, 4).double(), nn.Linear(6, 2).double()
    conv.requires_grad_(False), head.requires_grad_(False)
    scale = torch.rand(6).double()

    def network(x: Tensor) -> Tensor:
        tokens = conv(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.new_ones(1, 1, 6), tokens], dim=1)
        tokens = tokens + scale * tokens.roll(1, dims=1)
        return head(F.pad(tokens, (0, 0, 0, 3)).mean(dim=1))

    x = rand(1, 3, 8, 8).requires_grad_()
    score = network(x)[0, 1]
    (gradient,) = torch.autograd.grad(score, x)
    relevance = torch.tensor([[0.0, float(score.detach())]]).double()
    (actual,) = propagate(network, x.detach(), relevance=relevance)
    torch.testing.assert_close(actual, x.detach() * gradient)


@pytest.mark.parametrize("settings", [EPSILON_RULE, GAMMA_RULE])
def test_a_network_without_biases_conserves_the_score(settings: RuleSettings) -> None:
    weights = [rand(8, 8, seed=seed) for seed in range(3)]
    patches, head = rand(8, 3, 4, 4, seed=4), rand(2, 8, seed=5)

    def network(x: Tensor) -> Tensor:
        tokens = F.conv2d(x, patches, stride=4).flatten(2).transpose(1, 2)
        tokens = tokens + F.linear(F.layer_norm(tokens, (8,)), weights[0])
        tokens = tokens + F.silu(F.linear(tokens, weights[1])) * F.linear(tokens, weights[2])
        return F.linear(F.gelu(F.rms_norm(tokens, (8,))).amax(dim=1), head)

    relevance = rand(2, 2, seed=9)
    (actual,) = propagate(network, rand(2, 3, 8, 8), settings=settings, relevance=relevance)
    torch.testing.assert_close(actual.sum((1, 2, 3)), relevance.sum(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_bit_equal_and_functions_stay_as_they_are(name: str) -> None:
    model, x = build(name), images()
    owners = (torch, F, Tensor, torch._C._nn, torch.nn.Linear, torch.nn.LayerNorm)
    before = [dict(vars(owner)) for owner in owners]
    expected = model(x)
    with PropagationMode(GAMMA_RULE):
        assert torch.equal(model(x.clone().requires_grad_()), expected)
    assert [dict(vars(owner)) for owner in owners] == before


def test_the_mode_ends_with_an_exception_inside_a_function() -> None:
    module = nn.MultiheadAttention(8, 2)
    with pytest.raises(AssertionError), PropagationMode(GAMMA_RULE):
        module(*(torch.rand(5, 2, 7, requires_grad=True) for _ in range(3)))
    assert mode_stack() == []
    with pytest.raises(RuntimeError), PropagationMode(GAMMA_RULE):
        F.linear(torch.rand(2, 3, requires_grad=True), torch.rand(4, 5))
    assert mode_stack() == []


def test_other_threads_and_passes_in_hooks_are_left_alone() -> None:
    a, b = (rand(3, seed=seed).requires_grad_() for seed in range(2))

    def gradient() -> Tensor:
        return torch.autograd.grad((a * b).sum(), a)[0]

    with PropagationMode(GAMMA_RULE):
        assert torch.equal(gradient(), b / 2)
        with model_running(), nested_pass():
            assert torch.equal(gradient(), b)
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(gradient()))
        thread.start()
        thread.join()
        assert torch.equal(results[0], b)
    assert torch.equal(gradient(), b)


def test_values_changed_in_place_are_no_function_of_each_other() -> None:
    relevance = rand(3, 5, seed=9)

    def function(a: Tensor, b: Tensor) -> Tensor:
        doubled = 2 * a
        doubled += b
        return a * doubled

    left, right = propagate(function, rand(3, 5), rand(3, 5, seed=1), relevance=relevance)
    a, b = rand(3, 5), rand(3, 5, seed=1)
    shared = relevance / 2 / (2 * a + b)
    torch.testing.assert_close(left, relevance / 2 + 2 * a * shared)
    torch.testing.assert_close(right, b * shared)


class _Cube(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return 3 * x * x * gradient


def test_calls_without_a_rule_are_named() -> None:
    x = rand(3).requires_grad_()
    with PropagationMode(GAMMA_RULE):
        assert calls_without_rule(torch.sinc(x) + _Cube.apply(x)) == ("Sinc", "_Cube")
        assert calls_without_rule(F.gelu(x) * F.silu(x)) == ()
    assert calls_without_rule(x * x) == ("Mul",)  # outside of the mode


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compiled_code_in_a_model_is_refused() -> None:
    class CompiledFunctionBackward:
        next_functions = ()

        def name(self) -> str:
            return "CompiledFunctionBackward"

    class Scores:
        grad_fn = CompiledFunctionBackward()

    with pytest.raises(UnsupportedModelError, match="got CompiledFunctionBackward — pass"):
        calls_without_rule(Scores())  # type: ignore[arg-type]


def test_every_form_of_a_function_has_its_rule() -> None:
    for name in ("mul", "div", "sigmoid", "tanh", "matmul", "pow", "exp", "sqrt"):
        forms = [getattr(torch, name), getattr(Tensor, name)]
        assert len({RULES[form] for form in forms}) == 1
    assert RULES[Tensor.__imul__] is RULES[torch.mul] is RULES[Tensor.mul_]
    assert F.scaled_dot_product_attention in RULES and torch.layer_norm in RULES
