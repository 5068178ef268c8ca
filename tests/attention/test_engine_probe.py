"""Twin models that move tokens by rarely used operations.

Each model has the weights and the logits of the plain model, so it must have the same map and the
same prompted logits.
"""

from __future__ import annotations

import functools
import gc
import random
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semattn import AttentionPrompter, explainers
from semattn.attention import record
from semattn.errors import UnsupportedModelError
from tests.maps import TARGET, assert_same, difference, patch_map
from tests.twins import HEADS, PATCHES, WIDTH, Twin, TwinViT, build, pictures

NAMES = ("raw-attention", "attention-rollout", "generic-relevance", "grad-cam")
PERMUTED = [7, 2, 11, 0, 5, 9, 1, 10, 4, 8, 3, 6]


class _ViT(TwinViT):
    """Plain ViT with a step before each block; `place` is the final index of the class token."""

    place = 0

    def __init__(self, twin: Twin | None = None) -> None:
        super().__init__(twin or Twin())

    def patches(self, images: Tensor) -> Tensor:
        return self.patch_embed(images).flatten(2).transpose(1, 2) + self.positions

    def own(self, kind: str, images: Tensor) -> Tensor:
        return self.tokens[kind].expand(len(images), -1, -1)

    def start(self, images: Tensor) -> Tensor:
        return torch.cat([self.own("class", images), self.patches(images)], dim=1)

    def between(self, layer: int, tokens: Tensor) -> Tensor:
        return tokens

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.start(images)
        for layer, block in enumerate(self.blocks):
            tokens = block(self.between(layer, tokens))
        return self.head(self.norm(tokens)[:, self.place])


def _build(
    kind: type[_ViT], attention: Callable[[nn.Module], nn.Module] | None = None
) -> nn.Module:
    model = kind().double().eval()
    model.load_state_dict(build(Twin()).state_dict(), strict=False)
    if attention is not None:
        for block in model.blocks:
            block.attn = attention(block.attn)
    return model


def _prompted(model: nn.Module, x: Tensor) -> Tensor:
    weights = torch.rand(len(x), PATCHES, generator=torch.manual_seed(3), dtype=torch.float64) + 0.1
    prompter = AttentionPrompter(model, strength=1.0, layers="last-half")
    with torch.no_grad(), prompter.steer(weights):
        return model(x)


def _check_same(model: nn.Module, plain: nn.Module, names: tuple[str, ...] = NAMES) -> None:
    x = pictures()
    torch.testing.assert_close(model(x), plain(x), atol=1e-9, rtol=1e-9)
    for name in names:
        assert_same(patch_map(name, model, x), patch_map(name, plain, x))
    assert difference(_prompted(model, x), _prompted(plain, x)) < 1e-9


# ---- writes of tokens ----------------------------------------------------------------------------


class _HalvesAdded(_ViT):
    """ViT that assigns one half of the patches and adds the other half in place."""

    def start(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        tokens = patches.new_zeros(len(images), PATCHES + 1, WIDTH)
        tokens[:, :1] = self.own("class", images)
        tokens[:, 1:9] = patches[:, :8]
        tokens[:, 9:] += patches[:, 8:]
        return tokens


class _AddedIntoSlice(_ViT):
    def start(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        parts = [self.own("class", images), patches[:, :8], torch.zeros_like(patches[:, 8:])]
        tokens = torch.cat(parts, dim=1)
        tokens[:, 9:].add_(patches[:, 8:])
        return tokens


class _WhereOfOrders(_ViT):
    def start(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        first, last = patches[:, :6], patches[:, 6:]
        mixed = torch.where(
            torch.arange(PATCHES)[:, None] < 6,
            torch.cat([first.flip(1), last], dim=1),
            torch.cat([first, last.flip(1)], dim=1),
        )
        return torch.cat([self.own("class", images), mixed], dim=1)


class _BlendOfOrders(_ViT):
    """ViT that selects between two orders of the patches by masks of ones and zeros."""

    kind = "product"

    def start(self, images: Tensor) -> Tensor:
        patches = self.patches(images)
        mask = (torch.arange(PATCHES)[:, None] < 6).to(patches)
        flipped = patches.flip(1)
        if self.kind == "product":
            mixed = patches * mask + flipped * (1 - mask)
        else:
            mixed = torch.lerp(flipped, patches, mask)
        return torch.cat([self.own("class", images), mixed], dim=1)


@pytest.mark.parametrize("kind", ["product", "lerp"])
def test_a_sum_of_tokens_of_two_orders_is_refused(kind: str) -> None:
    model = _build(_BlendOfOrders)
    model.kind = kind
    with pytest.raises(UnsupportedModelError, match="cannot be followed back"):
        patch_map("raw-attention", model, pictures())


class _StridedShortcut(_ViT):
    """Convolutional stem with a residual block: its paths differ by half of a patch or by one."""

    shift = 0

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, WIDTH, 8, 8)
        self.main = torch.nn.Conv2d(WIDTH, WIDTH, 3, stride=2)
        self.shortcut = torch.nn.Conv2d(WIDTH, WIDTH, 1, stride=2)

    def start(self, images: Tensor) -> Tensor:
        features = self.stem(images)  # cells of 8 pixels; "same" padding is one-sided at stride 2
        main = self.main(torch.nn.functional.pad(features, (0, 1, 0, 1)))
        features = self.shortcut(features) + main.roll(self.shift, dims=-1)
        tokens = features.flatten(2).transpose(1, 2)
        return torch.cat([self.own("class", images), tokens], dim=1)


@pytest.mark.parametrize("shift", [0, 1])
def test_a_residual_sum_may_differ_by_half_of_a_patch(shift: int) -> None:
    model = _build(_StridedShortcut)
    model.shift = shift
    if shift:
        with pytest.raises(UnsupportedModelError, match="cannot be followed back"):
            patch_map("raw-attention", model, pictures())
        return
    record_ = record(model, pictures(), grad=False)
    rows, columns = record_.grid.shape
    assert (rows, columns) == tuple(side // 16 for side in pictures().shape[-2:])
    expected = torch.arange(rows) * 16 + 7.5
    torch.testing.assert_close(
        record_.grid.centers()[::columns, 1], expected.double(), atol=8.1, rtol=0
    )


class _JoinedIntoBuffer(_ViT):
    place = PATCHES

    @torch.no_grad()
    def start(self, images: Tensor) -> Tensor:
        tokens = torch.zeros(len(images), PATCHES + 1, WIDTH, dtype=images.dtype)
        parts = [self.patches(images).flip(1), self.own("class", images)]
        return torch.cat(parts, dim=1, out=tokens)


class _AddedIntoBuffer(_ViT):
    place = PATCHES

    @torch.no_grad()
    def start(self, images: Tensor) -> Tensor:
        tokens = torch.zeros(len(images), PATCHES + 1, WIDTH, dtype=images.dtype)
        features = self.patch_embed(images).flatten(2).transpose(1, 2)
        torch.add(features.flip(1), self.positions.flip(0), out=tokens[:, :PATCHES])
        tokens[:, PATCHES:] = self.own("class", images)
        return tokens


class _PermutedByMatrix(_ViT):
    def between(self, layer: int, tokens: Tensor) -> Tensor:
        order = [0, *(index + 1 for index in PERMUTED)]
        matrix = torch.eye(PATCHES + 1, dtype=tokens.dtype)[order]
        return matrix @ tokens if layer == 2 else tokens


class _PermutedByEinsum(_ViT):
    def between(self, layer: int, tokens: Tensor) -> Tensor:
        order = [0, *(index + 1 for index in PERMUTED)]
        matrix = torch.eye(PATCHES + 1, dtype=tokens.dtype)[order]
        return torch.einsum("ij,bjd->bid", matrix, tokens) if layer == 2 else tokens


@pytest.mark.parametrize(
    "kind",
    [
        _HalvesAdded, _AddedIntoSlice, _WhereOfOrders, _JoinedIntoBuffer, _AddedIntoBuffer,
        _PermutedByMatrix, _PermutedByEinsum,
    ],
)  # fmt: skip
def test_tokens_are_followed_through_writes_and_matrices(kind: type[_ViT]) -> None:
    _check_same(_build(kind), _build(_ViT))


def test_pairs_merged_by_a_matrix_are_pairs_that_are_averaged() -> None:
    class Averaged(_ViT):
        def between(self, layer: int, tokens: Tensor) -> Tensor:
            if layer != 2:
                return tokens
            return torch.cat([tokens[:, :1], tokens[:, 1:].unflatten(1, (6, 2)).mean(2)], dim=1)

    class ByMatrix(_ViT):
        def between(self, layer: int, tokens: Tensor) -> Tensor:
            if layer != 2:
                return tokens
            pairs = torch.eye(6, dtype=tokens.dtype).repeat_interleave(2, dim=1) / 2
            return torch.block_diag(torch.ones(1, 1, dtype=tokens.dtype), pairs) @ tokens

    _check_same(_build(ByMatrix), _build(Averaged))


def test_a_half_that_is_written_in_an_unknown_way_is_refused() -> None:
    class Scattered(_ViT):
        def start(self, images: Tensor) -> Tensor:
            patches = self.patches(images)
            parts = [self.own("class", images), patches[:, :8], torch.zeros_like(patches[:, 8:])]
            tokens = torch.cat(parts, dim=1)
            return tokens.index_add_(1, torch.arange(9, 13), patches[:, 8:])

    with pytest.raises(UnsupportedModelError, match="cannot be followed back"):
        patch_map("raw-attention", _build(Scattered), pictures())


def test_a_row_that_is_dropped_on_the_way_is_refused() -> None:
    class Dropped(_ViT):
        def between(self, layer: int, tokens: Tensor) -> Tensor:
            return tokens[:, :9] if layer == 2 else tokens

    with pytest.raises(UnsupportedModelError, match="same part of the image"):
        patch_map("attention-rollout", _build(Dropped), pictures())


# ---- forms of attention --------------------------------------------------------------------------


class _Projected(nn.Module):
    """Attention with convolutions as projections, after an identity convolution."""

    def __init__(self, attention: nn.Module, kernel: int, axes: int) -> None:
        super().__init__()
        self.attention, self.kernel, self.axes = attention, kernel, axes

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        batch, count, _width = tokens.shape
        source = self.attention
        weight = source.qkv.weight.unflatten(1, (-1, *[1] * self.axes))
        columns = tokens.transpose(1, 2)
        if self.kernel > 1:
            middle = torch.zeros(WIDTH, 1, self.kernel, dtype=tokens.dtype)
            middle[:, :, self.kernel // 2] = 1
            columns = F.conv1d(columns, middle, padding=self.kernel // 2, groups=WIDTH)
        if self.axes == 2:
            projected = F.conv2d(columns[..., None], weight, source.qkv.bias)[..., 0]
        else:
            projected = F.conv1d(columns, weight, source.qkv.bias)
        parts = projected.transpose(1, 2).reshape(batch, count, 3, HEADS, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        output = F.scaled_dot_product_attention(query, key, value)
        return source.proj(output.transpose(1, 2).reshape(batch, count, WIDTH))


@pytest.mark.parametrize(("kernel", "axes"), [(1, 1), (1, 2), (3, 1)])
def test_convolutions_over_a_sequence_with_a_class_token(kernel: int, axes: int) -> None:
    _check_same(_build(_ViT, lambda attention: _Projected(attention, kernel, axes)), _build(_ViT))


@pytest.mark.parametrize("count", [1, 2])
def test_learned_queries_that_are_the_same_for_all_images(count: int) -> None:
    class Pooled(_ViT):
        def __init__(self, expands: bool) -> None:
            super().__init__(Twin(layout="patches alone", readout="mean"))
            draw = torch.randn(1, HEADS, 1, WIDTH // HEADS, generator=torch.manual_seed(5))
            self.query, self.expands = nn.Parameter(draw), expands

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.norm(self.blocks(self.patches(images)))
            keys = tokens.unflatten(2, (HEADS, -1)).transpose(1, 2)
            query = self.query.expand(len(keys), -1, -1, -1) if self.expands else self.query
            output = F.scaled_dot_product_attention(query, keys, keys)
            return self.head(output.transpose(1, 2).flatten(1))

    x = pictures()[:count]
    models = [Pooled(expands).double().eval() for expands in (False, True)]
    for model in models:
        model.load_state_dict(build(Twin()).state_dict(), strict=False)
    for name in (*NAMES, "legrad"):
        assert_same(*(patch_map(name, model, x) for model in models))


# ---- prefix tokens -------------------------------------------------------------------------------

REGISTERS = Twin(layout="class, registers, patches")


class _Registers(_ViT):
    """ViT with class token, registers and patches; `dropped`: no registers in the last layer."""

    order, dropped, late = ("class", "registers", "patches"), False, False

    def __init__(self) -> None:
        super().__init__(REGISTERS)

    def forward(self, images: Tensor) -> Tensor:
        parts = {"class": self.own("class", images), "registers": self.own("registers", images)}
        parts["patches"] = self.patches(images)
        for layer, block in enumerate(self.blocks):
            self.arrange(layer, parts)
            names = [name for name in self.order_of(layer) if name in parts]
            tokens = block(torch.cat([parts[name] for name in names], dim=1))
            split = tokens.split([parts[name].shape[1] for name in names], dim=1)
            parts.update(zip(names, split, strict=True))
        return self.head(self.norm(parts["class"])[:, 0])

    def arrange(self, layer: int, parts: dict[str, Tensor]) -> None:
        if self.dropped and layer == 3:
            del parts["registers"]

    def order_of(self, layer: int) -> tuple[str, ...]:
        late = ("registers", "patches") if self.late and layer < 2 else None
        return late or self.order


def _kind(**options: Any) -> type[_Registers]:
    return type("_Kind", (_Registers,), options)


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        ({"dropped": True}, {"dropped": True, "order": ("registers", "class", "patches")}),
        ({"dropped": True}, {"dropped": True, "order": ("patches", "registers", "class")}),
        ({"late": True}, {"late": True, "order": ("registers", "class", "patches")}),
        ({"late": True}, {"late": True, "order": ("registers", "patches", "class")}),
        (
            {},
            {
                "order_of": lambda self, layer: (
                    ("registers", "class", "patches")
                    if layer % 2
                    else ("class", "patches", "registers")
                )
            },
        ),
    ],
    ids=["removed", "removed, class last", "class enters", "class enters last", "exchanged"],
)
def test_prefix_tokens_keep_their_identity_in_all_layers(plain: Any, other: Any) -> None:
    _check_same(_build(_kind(**other)), _build(_kind(**plain)), (*NAMES, "transition-attention"))


# ---- orders that are kept, and orders that are not -----------------------------------------------


class _Ordered(_ViT):
    """ViT with the order of patches of `arrange(model, patches, images, *arguments)`."""

    arrange: Callable[..., Tensor]

    def forward(self, images: Tensor, *arguments: Tensor) -> Tensor:
        patches = type(self).arrange(self, self.patches(images), images, *arguments)
        tokens = torch.cat([self.own("class", images), patches], dim=1)
        return self.head(self.norm(self.blocks(tokens))[:, 0])


def _ordered(arrange: Callable[..., Tensor]) -> Any:
    return _build(type("_Arranged", (_Ordered,), {"arrange": arrange}))


def _raw(model: nn.Module, x: Tensor, **options: Any) -> Tensor:
    return explainers["raw-attention"]().patch_map(model, x, target=TARGET, **options)


@pytest.mark.parametrize(
    "order",
    [
        lambda scores: scores.argsort().tolist(),
        lambda scores: torch.from_numpy(np.argsort(scores.detach().numpy())),
    ],
    ids=["tolist", "numpy"],
)
def test_an_order_that_python_makes_of_an_image_is_not_used_for_another(order: Any) -> None:
    model, x = _ordered(lambda _, p, __: p[:, order(p.sum(-1)[0])]), pictures(count=4)
    for batch in (x, x[1:2], x[2:], x[3:]):
        assert_same(_raw(model, batch), _raw(_build(_ViT), batch))


def test_an_order_that_depends_on_all_images_is_that_of_all() -> None:
    x = pictures(count=4)
    between = float(x[:2].mean() + x.mean()) / 2
    model = _ordered(lambda _, p, images: p.flip(1) if float(images.mean()) > between else p)
    for batch in (x, x[:2]):
        assert_same(_raw(model, batch), _raw(_build(_ViT), batch))


def test_a_choice_of_order_by_the_image_is_named() -> None:
    model = _ordered(lambda _, p, images: torch.where(images.mean() > 0.5, p.flip(1), p))
    with pytest.raises(UnsupportedModelError, match="order that depends on the image"):
        _raw(model, pictures())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: random.sample(range(12), 12),
        lambda: torch.from_numpy(np.random.permutation(12)),  # noqa: NPY002
    ],
    ids=["random", "numpy"],
)
def test_random_orders_of_python_and_numpy_are_named(draw: Callable[[], Any]) -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    with pytest.raises(UnsupportedModelError, match="order"):
        _raw(_ordered(lambda _, p, __: p[:, draw()]), pictures())


@pytest.mark.parametrize("sorts", [False, True])
def test_an_order_that_is_an_argument_is_read_in_each_call(sorts: bool) -> None:
    model = _ordered(lambda _, p, __, order: p[:, order.argsort() if sorts else order])
    for order in (torch.tensor(PERMUTED), torch.tensor(PERMUTED).flip(0)):
        value = _raw(model, pictures(), additional_forward_args=(order,))
        assert_same(value, _raw(_build(_ViT), pictures()))


ATTRIBUTES: dict[str, tuple[Callable[[list[int]], Any], Callable[[Any, Tensor], Tensor]]] = {
    "list": (list, lambda order, p: p[:, order]),
    "dict": (lambda order: {"order": order}, lambda order, p: p[:, order["order"]]),
    "object": (
        lambda order: types.SimpleNamespace(order=order),
        lambda order, p: p[:, order.order],
    ),
    "array": (np.array, lambda order, p: p[:, torch.from_numpy(order)]),
    "tensor": (torch.tensor, lambda order, p: p[:, order]),
    "function": (lambda order: lambda p: p[:, order], lambda order, p: order(p)),
}


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_an_attribute_that_changes_the_order_is_noticed(kind: str) -> None:
    make, use = ATTRIBUTES[kind]
    model = _ordered(lambda self, p, _: use(self.kept, p))
    for order in (PERMUTED, PERMUTED[::-1]):
        model.kept = make(list(order))
        assert_same(_raw(model, pictures()), _raw(_build(_ViT), pictures()))


def test_a_buffer_that_changes_in_place_is_noticed() -> None:
    model = _ordered(lambda self, p, _: p[:, self.order])
    model.register_buffer("order", torch.tensor(PERMUTED))
    for order in (PERMUTED, PERMUTED[::-1]):
        model.order.copy_(torch.tensor(order))
        assert_same(_raw(model, pictures()), _raw(_build(_ViT), pictures()))


@pytest.mark.parametrize("bind", [types.MethodType, lambda f, m: functools.partial(f, m)])
def test_a_layout_does_not_keep_a_model_alive(bind: Any) -> None:
    model = _build(_ViT)
    model.forward = bind(_ViT.forward, model)
    _raw(model, pictures())
    AttentionPrompter(model)(pictures())
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_the_readout_is_that_of_the_weights() -> None:
    model = _build(_ViT)
    weight = model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.zero_()
    prompter = AttentionPrompter(model, queries="class")
    with pytest.raises(UnsupportedModelError, match="class token"):
        prompter(pictures())
    with torch.no_grad():
        model.head.weight.copy_(weight)
    expected = AttentionPrompter(_build(_ViT), queries="class")(pictures())
    torch.testing.assert_close(prompter(pictures()), expected)


def test_a_function_of_the_second_output_is_read_from_its_tokens() -> None:
    class Two(_ViT):
        def forward(self, images: Tensor) -> Any:
            tokens = self.norm(self.blocks(self.start(images)))
            return self.head(tokens[:, 0]), self.head(tokens[:, 1:].mean(dim=1))

    class Mean(_ViT):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.norm(self.blocks(self.start(images)))[:, 1:].mean(dim=1))

    def second(output: Any) -> Tensor:
        return output[1][:, TARGET]

    value = explainers["attention-rollout"]().patch_map(_build(Two), pictures(), target=second)
    assert difference(value, patch_map("attention-rollout", _build(Mean), pictures())) < 0.02


# ---- parts and refusals --------------------------------------------------------------------------


def test_a_part_of_a_model_without_names_is_not_called_unsteered() -> None:
    class Unnamed(nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            self.norm, self.project, self.out = block.norm1, block.attn.qkv, block.attn.proj

        def forward(self, tokens: Tensor) -> Tensor:
            parts = self.project(self.norm(tokens)).unflatten(2, (3, HEADS, -1))
            query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
            output = F.scaled_dot_product_attention(query, key, value)
            return tokens + self.out(output.transpose(1, 2).flatten(2))

    model = _build(_ViT)
    for number, block in enumerate(model.blocks):
        model.blocks[number] = Unnamed(block)
    tokens = torch.zeros(1, PATCHES + 1, WIDTH, dtype=torch.float64)
    weights = torch.ones(2, PATCHES, dtype=torch.float64)
    with AttentionPrompter(model).steer(weights):
        with pytest.raises(UnsupportedModelError, match="a call of the whole prompted model"):
            model.blocks[0](tokens)
        model(pictures())
        with pytest.raises(UnsupportedModelError, match="a call of the whole prompted model"):
            model.blocks[0](tokens)


class _Encoder(nn.Module):
    def __init__(self, batch_first: bool, masks: bool) -> None:
        super().__init__()
        self.vit, self.masks, self.batch_first = _build(_ViT), masks, batch_first
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first).double()

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.start(images)
        mask = torch.zeros(tokens.shape[:2], dtype=torch.bool) if self.masks else None
        if not self.batch_first:
            tokens = tokens.transpose(0, 1)
        tokens = self.encoder(tokens, src_key_padding_mask=mask)
        return self.vit.head(tokens[:, 0] if self.batch_first else tokens[0])


def test_nested_tensors_are_refused_by_name() -> None:
    model = _Encoder(batch_first=True, masks=True).eval()
    with (
        pytest.warns(UserWarning, match="nested tensors"),
        pytest.raises(UnsupportedModelError, match="enable_nested_tensor=False"),
    ):
        _raw(model, pictures())


def test_blocks_with_the_sequence_first_are_refused_by_their_shape() -> None:
    model = _Encoder(batch_first=False, masks=False).eval()
    with pytest.raises(UnsupportedModelError, match=r"tokens \(B, N, D\) of 2 images"):
        patch_map("legrad", model, pictures())


def test_grad_cam_names_a_module_that_holds_all_attention() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = _build(_ViT)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.vit.start(images)
            for block in self.vit.blocks:
                normed = block.norm1(tokens)
                parts = block.attn.qkv(normed).unflatten(2, (3, HEADS, -1))
                output = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4).unbind(0))
                tokens = tokens + block.attn.proj(output.transpose(1, 2).flatten(2))
                tokens = tokens + block.mlp(block.norm2(tokens))
            return self.vit.head(self.vit.norm(tokens)[:, 0])

    model = Whole().eval()
    assert_same(_raw(model, pictures()), _raw(_build(_ViT), pictures()))
    with pytest.raises(UnsupportedModelError, match="layer="):
        patch_map("grad-cam", model, pictures())
