"""Attention is found by its computation, not by the name of its module.

One timm ViT is written in many forms with the same weights. Each form must return the logits, the
maps and the prompted logits of the original. Modules that are named attention but mix no patches
must change nothing, and parts that the output does not depend on must not cause a refusal.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semattn import AttentionPrompter, explainers, record
from semattn.errors import UnsupportedModelError
from tests.maps import METHODS, TARGET, assert_same, attempt, patch_map
from tests.models import CLASSES, SIZE, build, images, state_of


def _x() -> Tensor:
    return images(2, torch.float64)


# --- attention in other forms ---


def _weights(scores: Tensor, form: str) -> Tensor:
    """Return the attention of scores (B, H, Nq, Nk)."""
    if form == "torch.softmax":
        return torch.softmax(scores, dim=-1)
    if form == "tensor.softmax":
        return scores.softmax(-1)
    if form == "torch._softmax":
        return torch._softmax(scores, -1, False)
    if form == "torch.special.softmax":
        return torch.special.softmax(scores, dim=-1)
    if form == "exp and sum":
        exponentials = torch.exp(scores)
        return exponentials / exponentials.sum(dim=-1, keepdim=True)
    if form == "exp and sum, stable":
        exponentials = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        return exponentials / exponentials.sum(-1, keepdim=True)
    if form == "log_softmax":
        return F.log_softmax(scores, dim=-1).exp()
    raise AssertionError(form)


class MSA(nn.Module):
    """Self-attention of a timm module, written by hand; the class name does not say attention."""

    def __init__(self, source: Any, form: str, softmax: nn.Module | None = None) -> None:
        super().__init__()
        self.form, self.heads, self.scale = form, source.num_heads, source.scale
        self.to_qkv, self.to_out = source.qkv, source.proj
        self.softmax = softmax

    def forward(self, x: Tensor, **_: object) -> Tensor:  # timm passes masks that are None
        batch, count, _width = x.shape
        q, k, v = self.to_qkv(x).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.to_out(self.mix(q, k, v).transpose(1, 2).reshape(batch, count, -1))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.form == "keys first":  # (B, H, Nk, Nq)
            scores = k @ (q * self.scale).transpose(-2, -1)
            return scores.softmax(dim=-2).transpose(-2, -1) @ v
        if self.form == "keys first, einsum":
            scores = torch.einsum("bhkd,bhqd->bhkq", k, q) * self.scale
            return torch.einsum("bhkq,bhkd->bhqd", scores.softmax(dim=2), v)
        if self.form == "heads in the batch":
            q, k, v = (tensor.flatten(0, 1) for tensor in (q, k, v))
            attention = torch.bmm(q * self.scale, k.transpose(1, 2)).softmax(-1)
            return torch.bmm(attention, v).unflatten(0, (-1, self.heads))
        if self.form == "heads last":  # (B, Nq, Nk, H)
            scores = torch.einsum("bhqd,bhkd->bqkh", q, k) * self.scale
            return torch.einsum("bqkh,bhkd->bhqd", scores.softmax(dim=2), v)
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale
        attention = self.softmax(scores) if self.softmax else _weights(scores, self.form)
        return torch.einsum("bhqk,bhkd->bhqd", attention, v)


class Layer(nn.Module):
    """Block whose attention is part of its own forward."""

    def __init__(self, block: Any, form: str) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.qkv, self.proj = block.attn.qkv, block.attn.proj
        self.heads, self.form = block.attn.num_heads, form

    def forward(self, x: Tensor, **_: object) -> Tensor:
        batch, count, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, count, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.form == "sdpa in the block":
            output = F.scaled_dot_product_attention(q, k, v)
        else:
            scores = torch.matmul(q, k.transpose(-2, -1)) / q.shape[-1] ** 0.5
            output = torch.matmul(F.softmax(scores, dim=-1), v)
        x = x + self.proj(output.transpose(1, 2).reshape(batch, count, width))
        return x + self.mlp(self.norm2(x))


MODULES = [
    "torch.softmax", "tensor.softmax", "torch._softmax", "torch.special.softmax", "exp and sum",
    "exp and sum, stable", "log_softmax", "keys first", "keys first, einsum", "heads in the batch",
    "heads last", "shared softmax",
]  # fmt: skip
BLOCKS = ["sdpa in the block", "softmax in the block"]


def _rewritten(form: str, base: str = "class-token") -> nn.Module:
    """Return a model of `tests.models` with its attention in another form."""
    model: Any = build(base, torch.float64)
    softmax = nn.Softmax(dim=-1) if form == "shared softmax" else None
    for number, block in enumerate(model.blocks):
        if form in BLOCKS:
            model.blocks[number] = Layer(block, form)
        else:
            block.attn = MSA(block.attn, form, softmax)
    return model.eval()


# A layer with its own softmax may record no keys for affinity refinement: tested below.
WITHOUT_KEYS: dict[str, dict[str, Any]] = {"sift-patch-interrelation": {"affinity": 0.0}}


@cache
def _plain_map(name: str, base: str) -> Tensor:
    return patch_map(name, build(base, torch.float64), _x(), **WITHOUT_KEYS.get(name, {}))


@pytest.mark.parametrize("form", [*MODULES, *BLOCKS])
@pytest.mark.parametrize("base", ["class-token", "gap"])
def test_the_form_of_attention_does_not_change_the_patch_map(form: str, base: str) -> None:
    model, x = _rewritten(form, base), _x()
    plain = build(base, torch.float64)
    before = state_of(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), atol=1e-9, rtol=1e-9)
        logits = model(x)
    recorded = record(model, x, target=TARGET)
    assert torch.equal(recorded.logits, logits)
    assert [site.site.layer for site in recorded.sites] == [0, 1, 2, 3]
    for name in METHODS:
        if name == "grad-cam" and form in BLOCKS:
            continue  # reads the input of the attention module, here the block
        options = WITHOUT_KEYS.get(name, {})
        assert_same(patch_map(name, model, x, **options), _plain_map(name, base))
    assert state_of(model) == before


@pytest.mark.parametrize("form", [*MODULES, *BLOCKS])
def test_affinity_refinement_is_the_same_or_its_absence_is_noted(form: str) -> None:
    name = "sift-patch-interrelation"
    result = explainers[name]().explain(_rewritten(form), _x(), target=TARGET)
    if any("keys" in note for note in result.notes):
        assert_same(result.patch_map, _plain_map(name, "class-token"))
    else:
        assert_same(result.patch_map, patch_map(name, build("class-token", torch.float64), _x()))


@pytest.mark.parametrize("form", [*MODULES, *BLOCKS])
def test_the_form_of_attention_does_not_change_the_prompt(form: str) -> None:
    model, plain, x = _rewritten(form), build("class-token", torch.float64), _x()
    for queries in ("all", "class", "patches"):
        options = {"density": "count", "strength": 1.0, "layers": "all", "queries": queries}
        with torch.no_grad():
            expected = AttentionPrompter(plain, **options)(x)
            assert (expected - plain(x)).abs().max() > 1e-3
            assert_same(AttentionPrompter(model, **options)(x), expected)


# --- modules that are named attention and mix no patches ---


class _Gates(nn.Module):
    """CBAM: gates on channels, then on positions; `softmax` gates channels by a softmax."""

    def __init__(self, width: int, softmax: bool) -> None:
        super().__init__()
        self.channels = nn.Sequential(nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, width))
        self.places = nn.Conv2d(2, 1, 3, padding=1)
        self.softmax = softmax

    def forward(self, x: Tensor) -> Tensor:
        gate = self.channels(x.mean((2, 3))) + self.channels(x.amax((2, 3)))
        gate = gate.softmax(-1) * gate.shape[-1] if self.softmax else gate.sigmoid()
        x = x * gate[:, :, None, None]
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.places(both).sigmoid()


class CBAMAttention(_Gates):
    pass


class CBAM(_Gates):
    pass


class _WithGates(nn.Module):
    """ViT with gates on its feature map after the second block."""

    def __init__(self, kind: type[_Gates], softmax: bool) -> None:
        super().__init__()
        self.vit: Any = build("class-token")
        torch.manual_seed(3)
        self.gates = kind(16, softmax)

    def forward(self, x: Tensor) -> Tensor:
        vit = self.vit
        tokens = vit._pos_embed(vit.patch_embed(x))
        tokens = vit.blocks[1](vit.blocks[0](tokens))
        patches = tokens[:, 1:].transpose(1, 2).unflatten(2, (3, 4))
        patches = self.gates(patches).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens[:, :1], patches], dim=1)
        return vit.forward_head(vit.norm(vit.blocks[3](vit.blocks[2](tokens))))


class _GatedPool(nn.Module):
    """Gated pooling of multiple-instance learning (Ilse et al.): one softmax over all patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(width, 8), nn.Linear(width, 8)
        self.weight = nn.Linear(8, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = self.weight(self.value(tokens).tanh() * self.gate(tokens).sigmoid())
        return (scores.softmax(dim=1).transpose(1, 2) @ tokens).squeeze(1)


class GatedAttention(_GatedPool):
    pass


class GatedPool(_GatedPool):
    pass


class _Pooled(nn.Module):
    def __init__(self, kind: type[_GatedPool]) -> None:
        super().__init__()
        self.vit: Any = build("gap")
        torch.manual_seed(4)
        self.pool, self.head = kind(16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.vit.forward_features(x)))


GATED: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "CBAM": (lambda: _WithGates(CBAMAttention, False), lambda: _WithGates(CBAM, False)),
    "channel softmax": (lambda: _WithGates(CBAMAttention, True), lambda: _WithGates(CBAM, True)),
    "gated pooling": (lambda: _Pooled(GatedAttention), lambda: _Pooled(GatedPool)),
}


@pytest.mark.parametrize("kind", GATED)
@pytest.mark.parametrize("name", METHODS)
def test_the_name_attention_does_not_make_attention(kind: str, name: str) -> None:
    called, otherwise = (make().double().eval() for make in GATED[kind])
    x = _x()
    torch.testing.assert_close(called(x), otherwise(x), atol=0, rtol=0)
    assert_same(patch_map(name, called, x), patch_map(name, otherwise, x))
    recorded = record(called, x, target=TARGET)
    torch.testing.assert_close(recorded.logits, called(x))
    assert [site.site.name for site in recorded.sites if site.site.kind == "self"] == [
        f"vit.blocks.{number}.attn" for number in range(4)
    ]


# --- parts that the output does not depend on ---


class _Siglip(nn.Module):
    """Mean of the last hidden states of a SigLIP tower, whose pooling head runs unused."""

    def __init__(self, use_head: bool) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        super().__init__()
        config = SiglipVisionConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
            image_size=64, patch_size=16, vision_use_head=use_head,
        )  # fmt: skip
        torch.manual_seed(0)
        self.tower = SiglipVisionModel(config)
        torch.manual_seed(1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tower(x).last_hidden_state.mean(dim=1))


def _square(count: int = 2) -> Tensor:
    noise = torch.rand(count, 3, 16, 16, generator=torch.manual_seed(1), dtype=torch.float64)
    return F.interpolate(noise, size=64, mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_pooling_head_that_is_not_read_changes_nothing(name: str) -> None:
    with_head, without = (_Siglip(use).double().eval() for use in (True, False))
    with torch.no_grad():
        for parameter in with_head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    without.load_state_dict(
        {key: value for key, value in with_head.state_dict().items() if key in without.state_dict()}
    )
    x = _square()
    torch.testing.assert_close(with_head(x), without(x))
    assert_same(patch_map(name, with_head, x), patch_map(name, without, x))


# --- a frozen backbone ---


class _Frozen(nn.Module):
    """Linear probe: the backbone runs under `torch.no_grad`, the head is trained."""

    def __init__(self, backbone: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.backbone, self.frozen = backbone, frozen
        torch.manual_seed(5)
        self.head = nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.backbone(x)
        return self.head(features)


@pytest.mark.parametrize("base", ["class-token", "registers", "gap"])
@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_backbone_needs_no_gradient(name: str, base: str) -> None:
    frozen, open_ = (
        _Frozen(build(base, torch.float64), value).double().eval() for value in (True, False)
    )
    x = _x()
    needs = explainers[name].needs_gradient and name != "occlusion"
    expected = patch_map(name, open_, x)
    value, refusal = attempt(lambda: patch_map(name, frozen, x))
    if value is not None:
        assert_same(value, expected)
        return
    assert needs, f"{name} needs no gradient, but: {refusal}"
    assert "gradient" in str(refusal) or "no_grad" in str(refusal)


# --- a decoder after the encoder ---


class _Detector(nn.Module):
    """DETR-like model whose learned queries read the patches of a ViT."""

    def __init__(self, queries: int) -> None:
        super().__init__()
        self.vit: Any = build("gap")
        torch.manual_seed(6)
        layer = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.queries = nn.Parameter(torch.randn(1, queries, 16))
        self.classes = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory = self.vit.forward_features(x)
        read = self.decoder(self.queries.expand(len(x), -1, -1), memory)
        return {"logits": self.classes(read)}


def _first_query(output: dict[str, Tensor]) -> Tensor:
    return output["logits"][:, 0, TARGET]


@pytest.mark.parametrize("queries", [3, 12])
def test_a_decoder_of_learned_queries_is_no_layer_of_patches(queries: int) -> None:
    model, x = _Detector(queries).double().eval(), _x()
    recorded = record(model, x, target=_first_query)
    torch.testing.assert_close(recorded.logits, model(x)["logits"])
    assert recorded.grid.shape == (3, 4) and recorded.grid.prefix == 0
    self_sites = [site.site.name for site in recorded.sites if site.site.kind == "self"]
    assert self_sites == [f"vit.blocks.{number}.attn" for number in range(4)]
    expected = record(model.vit, x, target=TARGET)
    for site_record, expected_record in zip(recorded.sites, expected.sites, strict=False):
        torch.testing.assert_close(site_record.attention(), expected_record.attention())


@pytest.mark.parametrize("queries", [3, 12])
@pytest.mark.parametrize("name", METHODS)
def test_a_detector_is_explained_by_a_function_of_its_output(name: str, queries: int) -> None:
    model, x = _Detector(queries).double().eval(), _x()
    value, refusal = attempt(lambda: patch_map(name, model, x, _first_query))
    if value is None:
        assert name == "legrad", refusal  # the head of a detector cannot read averaged features
        return
    assert value.shape == (2, 3, 4) and value.isfinite().all()
    assert (value.flatten(1).std(dim=1) > 1e-6 * value.flatten(1).abs().mean(dim=1)).all()
    together = [
        patch_map(name, model, x[number : number + 1], _first_query)[0] for number in (0, 1)
    ]
    assert_same(torch.stack(together), value)


# --- MONAI ---


class _PlainAttention(nn.Module):
    """Attention of MONAI's SABlock in the form of timm."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.qkv, self.out_proj, self.heads = source.qkv, source.out_proj, source.num_heads

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        output = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(output.transpose(1, 2).reshape(batch, count, -1))


def _monai(kind: str) -> nn.Module:
    from monai.networks.nets import UNETR, ViT

    torch.manual_seed(0)
    if kind == "ViT":
        model = ViT(
            3, SIZE, 16, hidden_size=16, mlp_dim=32, num_layers=4, num_heads=2, spatial_dims=2,
            classification=True, num_classes=CLASSES, post_activation="",
        )  # fmt: skip
    else:
        model = UNETR(
            3, 2, SIZE, feature_size=4, hidden_size=16, mlp_dim=32, num_heads=2, spatial_dims=2
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.double().eval()


def _segmented(output: Tensor) -> Tensor:
    return output[:, 1].mean(dim=(1, 2))


@pytest.mark.parametrize(("kind", "target"), [("ViT", TARGET), ("UNETR", _segmented)])
@pytest.mark.parametrize("name", METHODS)
def test_monai_equals_the_same_attention_in_a_plain_form(kind: str, target: Any, name: str) -> None:
    model, x = _monai(kind), _x()
    plain = copy.deepcopy(model)
    blocks: Any = plain.blocks if kind == "ViT" else plain.vit.blocks
    for block in blocks:
        block.attn = _PlainAttention(block.attn)
    with torch.no_grad():
        logits, expected = (network(x) for network in (model, plain))
    if kind == "ViT":
        logits, expected = logits[0], expected[0]
    torch.testing.assert_close(logits, expected)
    assert torch.equal(record(model, x, target=target).logits, logits)
    options = WITHOUT_KEYS.get(name, {})
    value, refusal = attempt(lambda: patch_map(name, model, x, target, **options))
    if value is None:  # the head of UNETR reads several layers at once
        assert (kind, name) == ("UNETR", "legrad"), refusal
        return
    assert_same(value, patch_map(name, plain, x, target, **options))


# --- attention that is not one call of known functions ---


class _Direct(MSA):
    """Attention by a direct call of the operator, not by a function of torch."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.form == "operator":
            return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
        return torch.ops.aten._softmax(q @ k.mT * self.scale, -1, False) @ v


class _Positional(MSA):
    """Attention as in ConViT: a part of the weights depends only on positions."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        count = q.shape[-2]
        places = torch.linspace(0, 1, count * count, dtype=q.dtype).view(1, 1, count, count)
        content = torch.softmax(q @ k.mT * self.scale, dim=-1)
        return (0.5 * content + 0.5 * places.softmax(dim=-1)) @ v


@pytest.mark.parametrize(
    ("kind", "form", "reason"),
    [
        (_Direct, "operator", "direct call of _scaled_dot_product"),
        (_Direct, "softmax", "direct call of _softmax"),
        (_Positional, "", "a second softmax"),
    ],
)
def test_attention_that_cannot_be_read_whole_is_refused_by_name(
    kind: type[MSA], form: str, reason: str
) -> None:
    model: Any = build("class-token", torch.float64)
    block = model.blocks[2]
    block.attn = kind(block.attn, form)
    with torch.no_grad():
        assert model(_x()).isfinite().all()
    with pytest.raises(UnsupportedModelError, match=rf"blocks\.2\.attn.*{reason}"):
        record(model, _x(), target=TARGET)
