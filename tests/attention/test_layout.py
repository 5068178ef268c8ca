"""Where the tokens of windowed and hierarchical models lie, proven by what moves when pixels move.

Attention is silenced, so that tokens depend on their own pixels alone. Then a block of pixels is
changed, and the keys that change must be those that are said to lie there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from semattn.attention import record
from semattn.attention.hooks import Call, FusedCall, attach
from semattn.attention.model_call import ModelCall
from semattn.attention.model_layout import model_layout
from semattn.attention.sites import AttentionSite, find_sites
from semattn.attention.target import output_tensor
from semattn.attention.token_layout import Layout
from semattn.errors import UnsupportedModelError
from semattn.grid import PatchGrid
from tests.families import FAMILIES, build
from tests.models import SIZE, images
from tests.oracles import dense_record

# Between these models' attention nothing but the cut into patches joins pixels.
WITHOUT_CONVOLUTIONS = [
    "swin", "torchvision-swin", "torchvision-swin-v2", "swin-v2", "transformers-swin-sdpa",
    "transformers-swin-eager", "transformers-swin-v2", "open-clip", "torchvision-vit",
    "transformers-siglip", "transformers-beit",
]  # fmt: skip
WITH_CONVOLUTIONS = ["maxvit", "pvt-v2", "levit", "twins", "davit", "hiera", "mvit-v2"]
BLOCKS = [(0, 0), (4, 60), (20, 28), (24, 32), (44, 0), (44, 60), (12, 16), (36, 44)]  # y, x


def _silenced_calls(model: nn.Module, x: Tensor) -> dict[AttentionSite, Call]:
    calls: dict[AttentionSite, Call] = {}

    def silence(site: AttentionSite, call: Call) -> Tensor:
        calls[site] = call
        return torch.zeros_like(call.run())

    with torch.no_grad(), attach(find_sites(model), silence):
        model(x)
    return calls


def _changed(before: Call, after: Call) -> Tensor:
    """How much each key changed: (…, Nk)."""
    if isinstance(before, FusedCall):
        return (after.key - before.key).abs().amax(dim=-1)
    return (after.scores - before.scores).abs().amin(dim=-2)


def _on_tokens(layout: Layout, change: Tensor, lead: tuple[int, ...], batch: int) -> Tensor:
    """Sum of the changes on each patch of the layout's own grid: (B, P)."""
    folded = layout.fold(change.unsqueeze(-1), lead)[..., 0]
    placed = layout.place(layout.keys, layout.keys.grid, batch).collect(folded).sum(dim=1)
    return layout.keys.grid.drop_prefix(placed)


def _all_changes(name: str) -> Iterator[tuple[PatchGrid, AttentionSite, int, Tensor]]:
    """For every block of pixels and site: grid, site, patch of the block, changes (P,)."""
    model, x = build(name, torch.float64), images(2, torch.float64)
    layout = model_layout(model, ModelCall((x,), {}, 0))
    layouts = layout.layouts
    before = _silenced_calls(model, x)
    for y, left in BLOCKS:
        moved = x.clone()
        moved[1, :, y : y + 4, left : left + 4] += 0.5
        for site, after in _silenced_calls(model, moved).items():
            if site.name not in layouts:
                continue
            change = _changed(before[site], after)
            on_tokens = _on_tokens(layouts[site.name], change, after.shape[:-2], 2)
            assert on_tokens[0].abs().max() < 1e-9, "another image's keys changed"
            grid = layouts[site.name].keys.grid
            here = int(grid.patch_of(torch.tensor([[left + 1.5, y + 1.5]]))[0])
            yield grid, site, here, on_tokens[1]


@pytest.mark.parametrize("name", WITHOUT_CONVOLUTIONS)
def test_the_keys_that_change_are_those_of_the_changed_patch(name: str) -> None:
    seen = 0
    for _, site, here, change in _all_changes(name):
        assert (change > 1e-6).nonzero().flatten().tolist() == [here], site
        seen += 1
    assert seen >= 2 * len(BLOCKS)


@pytest.mark.parametrize("name", WITH_CONVOLUTIONS)
def test_with_convolutions_the_change_is_centred_on_the_changed_patch(name: str) -> None:
    errors = []
    for grid, _, here, change in _all_changes(name):
        if not change.any():
            continue  # behind a layer whose output is its attention's alone
        centre = (change[:, None] * grid.centers()).sum(dim=0) / change.sum()
        errors.append(((centre - grid.centers()[here]).abs() / torch.tensor(grid.cell)).max())
    assert len(errors) >= 2 * len(BLOCKS)
    assert torch.stack(errors).median() < 0.8 and max(errors) < 2


@pytest.mark.parametrize("name", [*WITHOUT_CONVOLUTIONS, *WITH_CONVOLUTIONS])
def test_planted_attention_lands_on_the_right_pixels(name: str) -> None:
    """All attention is sent to the keys that a change of pixels moves most; the map must show it.

    Where those keys lie is never asked of the layout.
    """
    seed = int(name == "hiera")  # of 0, under older timm, a neighbour moves as much
    model, x = build(name, torch.float64, seed=seed), images(1, torch.float64)
    before, (y, left) = _silenced_calls(model, x), (20, 28)
    moved = x.clone()
    moved[:, :, y : y + 4, left : left + 4] += 0.5
    after = _silenced_calls(model, moved)
    change = {site.name: _changed(before[site], call) for site, call in after.items()}

    def plant(site: AttentionSite, call: Call) -> Tensor:
        most = (change[site.name] > 0.999 * change[site.name].amax()).to(x.dtype)
        call.add_bias(30.0 * most.unsqueeze(-2))
        return call.run()

    with attach(find_sites(model), plant):
        taken = record(model, x, grad=False)
    everywhere, seen = torch.ones(1, taken.grid.tokens, dtype=x.dtype), 0
    for one in taken.sites:
        if not change[one.site.name].any():
            continue
        gathered = one.reduce(everywhere).mean(dim=1)[0, taken.grid.prefix :]
        peak = taken.grid.centers()[gathered.argmax()]
        middle = torch.tensor([left + 1.5, y + 1.5])
        away = ((peak - middle).abs() / torch.tensor(one.keys_at.own.cell[::-1])).max()
        assert away <= (0.5 if name in WITHOUT_CONVOLUTIONS else 2), one.site
        seen += 1
    assert seen


@pytest.mark.parametrize("name", ["swin", "maxvit", "pvt-v2", "twins"])
def test_windows_equal_the_dense_oracle(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    taken = record(model, x, target=[1, 3])
    dense = dense_record(model, x, [1, 3])
    assert len(taken.sites) == len(dense.attention)
    for one, attention, gradient in zip(taken.sites, dense.attention, dense.gradient, strict=True):
        shape = one.attention().shape
        torch.testing.assert_close(one.attention(), attention.reshape(shape), atol=1e-10, rtol=0)
        scale = gradient.abs().amax()
        torch.testing.assert_close(
            one.attention_gradient() / scale, gradient.reshape(shape) / scale, atol=1e-10, rtol=0
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_neither_made_nor_lost_on_the_way_to_the_grid(name: str) -> None:
    taken = record(build(name, torch.float64), images(dtype=torch.float64), grad=False)
    weights = torch.rand(2, taken.grid.tokens, dtype=torch.float64)
    weights[:, : taken.grid.prefix] = 0
    for one in taken.sites:
        if one.queries_at is None:
            continue
        asked = taken.grid.drop_prefix(weights).sum(dim=1)
        gathered = one.reduce(weights).sum(dim=-1).double()
        token = one.keys_at.token
        if token is not None and (token < 0).any():  # what goes to padding is not on the grid
            assert (gathered <= 1.00001 * asked[:, None]).all() and (
                gathered > 0.3 * asked[:, None]
            ).all()
        else:
            expected = asked[:, None].expand_as(gathered)
            torch.testing.assert_close(gathered, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_bit_equal_while_recording(name: str) -> None:
    """To the same kernels: PyTorch's own choice depends on whether gradients are asked for."""
    model, x = build(name).requires_grad_(False), images()
    ways = []
    for asked in (x, x.clone().requires_grad_()):
        made = model(asked)
        ways.append(output_tensor(made))
    logits = record(model, x, target=0).logits
    assert any(torch.equal(logits, one) for one in ways)
    torch.testing.assert_close(logits, ways[0])


@pytest.mark.parametrize("name", ["davit", "cait"])
def test_what_is_not_between_patches_is_left_out_by_name(name: str) -> None:
    taken = record(build(name), images(), target=0)
    names = {site.module for site in taken.left_out}
    assert names == ({"ChannelAttention"} if name == "davit" else set())
    assert all(one.site.module not in names for one in taken.sites)


def test_one_image_and_many_are_laid_out_alike() -> None:
    model, x = build("swin", torch.float64), images(5, torch.float64)
    together = record(model, x, grad=False)
    for number in range(5):
        alone = record(model, x[number, None], grad=False)
        for one, other in zip(together.sites, alone.sites, strict=True):
            everywhere = torch.ones(1, alone.grid.tokens, dtype=x.dtype)
            torch.testing.assert_close(
                one.reduce(everywhere.expand(5, -1))[number], other.reduce(everywhere)[0]
            )


@pytest.mark.parametrize("name", ["swin", "swin-v2", "maxvit", "pvt-v2", "hiera", "cait"])
def test_checkpointing_changes_nothing(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    expected = record(model, x, target=1)
    model.set_grad_checkpointing(True)
    got = record(model, x, target=1)
    for one, other in zip(got.sites, expected.sites, strict=True):
        assert one.gradient is not None and other.gradient is not None
        torch.testing.assert_close(one.gradient, other.gradient)
        torch.testing.assert_close(one.attention(), other.attention())


def test_threads_share_a_windowed_model() -> None:
    model, wrong = build("swin", torch.float64), []
    batches = [images(2, torch.float64, seed) for seed in range(4)]
    expected = [record(model, x, target=1).sites[-1].gradient for x in batches]

    def work(number: int) -> None:
        for _ in range(3):
            gradient = record(model, batches[number], target=1).sites[-1].gradient
            if not torch.equal(gradient, expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class _Folded(nn.Module):
    """Attention that folds windows or heads into the batch in an order of its own."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 4, 4)
        self.attention = _FoldedAttention(order)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x).permute(0, 2, 3, 1)
        return self.head(tokens + self.attention(tokens)).mean(dim=(1, 2))


class _FoldedAttention(nn.Module):
    def __init__(self, order: str) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        windows = self.qkv(x).unflatten(1, (-1, 4)).unflatten(3, (-1, 4))  # b y 4 x 4 (3 h d)
        windows = windows.unflatten(-1, (3, 2, 4)).permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6)
        q, k, v = windows  # each b y x h n d
        axes = {
            "heads last": (0, 1, 2, 3),
            "heads first": (3, 0, 1, 2),
            "images last": (1, 2, 0, 3),
        }
        order = axes[self.order]
        back = [order.index(axis) for axis in range(4)]
        lead = [q.shape[axis] for axis in order]
        q, k, v = (one.permute(*order, 4, 5).reshape(-1, 16, 4) for one in (q, k, v))
        attention = ((q @ k.transpose(1, 2)) / 2).softmax(dim=-1)
        out = (attention @ v).reshape(*lead, 4, 4, 4).permute(*back, 4, 5, 6)  # b y x h 4 4 d
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, 8)


def test_groups_and_heads_folded_into_one_axis_are_told_apart() -> None:
    x, maps = images(3, torch.float64), []
    for order in ("heads last", "heads first", "images last"):
        torch.manual_seed(0)
        taken = record(_Folded(order).double(), x, target=[0, 1, 2])
        (one,) = taken.sites
        assert one.shape == (36, 2, 16, 16) and taken.grid.shape == (12, 16)
        weights = torch.rand(3, 192, generator=torch.manual_seed(1), dtype=torch.float64)
        maps.append(one.reduce(weights, lambda a, da: a * da).sort(dim=1).values)
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[2], maps[0])


class _Shuffled(nn.Module):
    """Its patches ask by a fixed table that leaves some out and takes others twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("swin")

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.cat([x[..., :32], x[..., :32]], dim=-1))


def test_patches_that_are_seen_twice_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="expected attention between patches") as raised:
        record(_Shuffled(), images(), grad=False)
    assert "\n" not in str(raised.value)


def test_a_cropped_image_has_its_patches_where_they_are() -> None:
    class Cropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build("swin", torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x[..., 20:68, 7:71])

    big = torch.rand(1, 3, SIZE[0] * 2, SIZE[1] * 2, dtype=torch.float64)
    model = Cropped()
    taken, plain = (
        record(model, big, target=1),
        record(model.inner, big[..., 20:68, 7:71], target=1),
    )
    assert taken.grid == replace(plain.grid, image_size=(96, 128), origin=(20.0, 7.0))
    everywhere = torch.ones(1, plain.grid.tokens, dtype=torch.float64)
    for one, other in zip(taken.sites, plain.sites, strict=True):
        assert torch.equal(one.reduce(everywhere), other.reduce(everywhere))
