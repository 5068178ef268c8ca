"""`nn.MultiheadAttention`: PyTorch's own code runs, and the attention call inside is recorded."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semattn.attention import record, steer
from tests.models import GRID, images, state_of


class _Vit(nn.Module):
    """ViT of PyTorch's encoder layers, or of the attention module alone, in several forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.cut = nn.Conv2d(3, 16, 16, 16)
        first = form == "sequence first"
        if form == "encoder":
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        else:
            self.layers = nn.ModuleList(
                nn.MultiheadAttention(16, 2, batch_first=not first) for _ in range(2)
            )
        self.head = nn.Linear(16, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.cut(inputs).flatten(2).transpose(1, 2)
        if self.form == "encoder":
            return self.head(self.layers(x).mean(dim=1))
        if self.form == "sequence first":
            x = x.transpose(0, 1)
        mask = torch.zeros(12, 12, dtype=x.dtype) if self.form == "masked" else None
        for layer in self.layers:
            weights = self.form == "weights"
            x = x + layer(F.layer_norm(x, (16,)), x, x, need_weights=weights, attn_mask=mask)[0]
        return self.head(x.mean(dim=0 if self.form == "sequence first" else 1))


FORMS = ("encoder", "batch first", "sequence first", "weights", "masked")


def _build(form: str) -> nn.Module:
    torch.manual_seed(0)
    model = _Vit(form).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def _by_hand(query: Tensor, key: Tensor, layer: nn.MultiheadAttention) -> Tensor:
    """Compute the attention (B,H,N,N) of one layer from its parameters."""
    w, b = layer.in_proj_weight, layer.in_proj_bias
    q = (query @ w[:16].T + b[:16]).unflatten(-1, (2, 8)).transpose(1, 2)
    k = (key @ w[16:32].T + b[16:32]).unflatten(-1, (2, 8)).transpose(1, 2)
    return (q @ k.transpose(-2, -1) / 8**0.5).softmax(dim=-1)


@pytest.mark.parametrize("form", FORMS)
def test_attention_is_that_of_its_parameters(form: str) -> None:
    model, x = _build(form), images(dtype=torch.float64)
    before = state_of(model)
    recorded = record(model, x, target=1)
    assert state_of(model) == before
    assert (
        recorded.grid.shape == GRID
        and [site_record.shape for site_record in recorded.sites] == [(2, 2, 12, 12)] * 2
    )
    tokens = model.cut(x).flatten(2).transpose(1, 2)
    if form == "encoder":
        first = model.layers.layers[0]
        normed = first.norm1(tokens)
        expected = _by_hand(normed, normed, first.self_attn)
    else:
        expected = _by_hand(F.layer_norm(tokens, (16,)), tokens, model.layers[0])
    torch.testing.assert_close(recorded.sites[0].attention(), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(recorded.logits, model(x).detach())
    assert recorded.sites[0].gradient is not None and recorded.sites[0].gradient.abs().max() > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grad", [True, False])
def test_the_fast_path_is_seen_too(form: str, grad: bool) -> None:
    model, x = _build(form), images(dtype=torch.float64)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        recorded = record(model, x, target=1, grad=grad)
    assert len(recorded.sites) == 2


@pytest.mark.parametrize("form", FORMS)
def test_steering_renormalises_and_a_record_sees_it(form: str) -> None:
    model, x = _build(form), images(dtype=torch.float64)
    bias = torch.randn(2, 12, generator=torch.manual_seed(1), dtype=torch.float64)
    plain = record(model, x, grad=False).dense(0)
    with steer(model, bias, layers=0):
        steered = record(model, x, grad=False)
        with torch.no_grad():
            torch.testing.assert_close(steered.logits, model(x))
    expected = plain * bias.exp()[:, None, None]
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(steered.dense(0), expected, atol=1e-12, rtol=0)


def test_nothing_of_pytorch_is_replaced() -> None:
    body = F.multi_head_attention_forward
    before = {name: F.__dict__[name] for name in ("softmax", "scaled_dot_product_attention")}
    record(_build("weights"), images(dtype=torch.float64), target=0)
    assert F.multi_head_attention_forward is body
    assert all(body.__globals__[name] is function for name, function in before.items())
