"""Positions of the tokens of windowed and hierarchical models, checked by changes of pixels.

Attention is replaced by zeros, so that tokens depend only on their own pixels. Then a block of
pixels is changed, and the keys that change must be those whose layout position is this block.
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
from tests.families import FAMILIES, build, shared
from tests.models import SIZE, images
from tests.oracles import dense_record

# Without attention, only the patch embedding of these models mixes pixels.
WITHOUT_CONVOLUTIONS = [
    "swin", "torchvision-swin", "torchvision-swin-v2", "swin-v2", "transformers-swin-sdpa",
    "transformers-swin-eager", "transformers-swin-v2", "open-clip", "torchvision-vit",
    "transformers-siglip", "transformers-beit",
]  # fmt: skip
WITH_CONVOLUTIONS = ["maxvit", "pvt-v2", "levit", "twins", "davit", "hiera", "mvit-v2"]
BLOCKS = [(0, 0), (4, 60), (20, 28), (24, 32), (44, 0), (44, 60), (12, 16), (36, 44)]  # y, x


def _calls_without_attention(model: nn.Module, x: Tensor) -> dict[AttentionSite, Call]:
    calls: dict[AttentionSite, Call] = {}

    def return_zeros(site: AttentionSite, call: Call) -> Tensor:
        calls[site] = call
        return torch.zeros_like(call.run())

    with torch.no_grad(), attach(find_sites(model), return_zeros):
        model(x)
    return calls


def _key_change(before: Call, after: Call) -> Tensor:
    """Return the absolute change of each key: (…, Nk)."""
    if isinstance(before, FusedCall):
        return (after.key - before.key).abs().amax(dim=-1)
    return (after.scores - before.scores).abs().amin(dim=-2)


def _on_tokens(layout: Layout, change: Tensor, lead: tuple[int, ...], batch: int) -> Tensor:
    """Return the sum of the changes on each patch of the layout's own grid: (B, P)."""
    folded = layout.fold(change.unsqueeze(-1), lead)[..., 0]
    placed = layout.place(layout.keys, layout.keys.grid, batch).to_grid(folded).sum(dim=1)
    return layout.keys.grid.drop_prefix(placed)


def _all_changes(name: str) -> Iterator[tuple[PatchGrid, AttentionSite, int, Tensor]]:
    """Yield grid, site, patch of the block and changes (P,) for every block of pixels and site."""
    model, x = build(name, torch.float64), images(2, torch.float64)
    layout = model_layout(model, ModelCall.of(x))
    layouts = layout.layouts
    before = _calls_without_attention(model, x)
    for y, left in BLOCKS:
        moved = x.clone()
        moved[1, :, y : y + 4, left : left + 4] += 0.5
        for site, after in _calls_without_attention(model, moved).items():
            if site.name not in layouts:
                continue
            change = _key_change(before[site], after)
            on_tokens = _on_tokens(layouts[site.name], change, after.shape[:-2], 2)
            assert on_tokens[0].abs().max() < 1e-9, "another image's keys changed"
            grid = layouts[site.name].keys.grid
            here = int(grid.patch_of(torch.tensor([[left + 1.5, y + 1.5]]))[0])
            yield grid, site, here, on_tokens[1]


@pytest.mark.parametrize("name", WITHOUT_CONVOLUTIONS)
def test_the_keys_that_change_are_those_of_the_changed_patch(name: str) -> None:
    n_checked = 0
    for _, site, here, change in _all_changes(name):
        assert (change > 1e-6).nonzero().flatten().tolist() == [here], site
        n_checked += 1
    assert n_checked >= 2 * len(BLOCKS)


@pytest.mark.parametrize("name", WITH_CONVOLUTIONS)
def test_with_convolutions_the_change_is_centred_on_the_changed_patch(name: str) -> None:
    errors = []
    for grid, _, here, change in _all_changes(name):
        if not change.any():
            continue  # after a layer whose output is only its attention
        centre = (change[:, None] * grid.centers()).sum(dim=0) / change.sum()
        errors.append(((centre - grid.centers()[here]).abs() / torch.tensor(grid.cell)).max())
    assert len(errors) >= 2 * len(BLOCKS)
    assert torch.stack(errors).median() < 0.8 and max(errors) < 2


@pytest.mark.parametrize("name", [*WITHOUT_CONVOLUTIONS, *WITH_CONVOLUTIONS])
def test_planted_attention_lands_on_the_right_pixels(name: str) -> None:
    """A bias sends all attention to the keys that a change of pixels changes most.

    The map must show this position. The test finds the keys without the layout.
    """
    seed = int(name == "hiera")  # with seed 0 and older timm, a neighbor changes as much
    model, x = build(name, torch.float64, seed=seed), images(1, torch.float64)
    before, (y, left) = _calls_without_attention(model, x), (20, 28)
    moved = x.clone()
    moved[:, :, y : y + 4, left : left + 4] += 0.5
    after = _calls_without_attention(model, moved)
    change = {site.name: _key_change(before[site], call) for site, call in after.items()}

    def add_bias(site: AttentionSite, call: Call) -> Tensor:
        peak_keys = (change[site.name] > 0.999 * change[site.name].amax()).to(x.dtype)
        call.add_bias(30.0 * peak_keys.unsqueeze(-2))
        return call.run()

    with attach(find_sites(model), add_bias):
        recorded = record(model, x, grad=False)
    everywhere, n_checked = torch.ones(1, recorded.grid.tokens, dtype=x.dtype), 0
    for site_record in recorded.sites:
        if not change[site_record.site.name].any():
            continue
        gathered = site_record.reduce(everywhere).mean(dim=1)[0, recorded.grid.prefix :]
        peak = recorded.grid.centers()[gathered.argmax()]
        middle = torch.tensor([left + 1.5, y + 1.5])
        away = (
            (peak - middle).abs() / torch.tensor(site_record.keys_at.call_grid.cell[::-1])
        ).max()
        assert away <= (0.5 if name in WITHOUT_CONVOLUTIONS else 2), site_record.site
        n_checked += 1
    assert n_checked


@pytest.mark.parametrize("name", ["swin", "maxvit", "pvt-v2", "twins"])
def test_windows_equal_the_dense_oracle(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    recorded = record(model, x, target=[1, 3])
    dense = dense_record(model, x, [1, 3])
    assert len(recorded.sites) == len(dense.attention)
    for site_record, attention, gradient in zip(
        recorded.sites, dense.attention, dense.gradient, strict=True
    ):
        shape = site_record.attention().shape
        torch.testing.assert_close(
            site_record.attention(), attention.reshape(shape), atol=1e-10, rtol=0
        )
        scale = gradient.abs().amax()
        torch.testing.assert_close(
            site_record.attention_gradient() / scale,
            gradient.reshape(shape) / scale,
            atol=1e-10,
            rtol=0,
        )


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_neither_made_nor_lost_on_the_way_to_the_grid(name: str) -> None:
    with shared(name, torch.float64) as model:
        recorded = record(model, images(dtype=torch.float64), grad=False)
    weights = torch.rand(2, recorded.grid.tokens, dtype=torch.float64)
    weights[:, : recorded.grid.prefix] = 0
    for site_record in recorded.sites:
        if site_record.queries_at is None:
            continue
        total = recorded.grid.drop_prefix(weights).sum(dim=1)
        gathered = site_record.reduce(weights).sum(dim=-1).double()
        token = site_record.keys_at.token
        if token is not None and (token < 0).any():  # attention to padding is not on the grid
            assert (gathered <= 1.00001 * total[:, None]).all() and (
                gathered > 0.3 * total[:, None]
            ).all()
        else:
            expected = total[:, None].expand_as(gathered)
            torch.testing.assert_close(gathered, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_bit_equal_while_recording(name: str) -> None:
    """Compare with both kernels: PyTorch selects them by whether gradients are required."""
    model, x = build(name).requires_grad_(False), images()
    outputs = []
    for inputs in (x, x.clone().requires_grad_()):
        output = model(inputs)
        outputs.append(output_tensor(output))
    logits = record(model, x, target=0).logits
    assert any(torch.equal(logits, expected) for expected in outputs)
    torch.testing.assert_close(logits, outputs[0])


@pytest.mark.parametrize("name", ["davit", "cait"])
def test_what_is_not_between_patches_is_left_out_by_name(name: str) -> None:
    recorded = record(build(name), images(), target=0)
    names = {site.module for site in recorded.left_out}
    assert names == ({"ChannelAttention"} if name == "davit" else set())
    assert all(site_record.site.module not in names for site_record in recorded.sites)


def test_one_image_and_many_are_laid_out_alike() -> None:
    model, x = build("swin", torch.float64), images(5, torch.float64)
    together = record(model, x, grad=False)
    for number in range(5):
        alone = record(model, x[number, None], grad=False)
        for together_site, alone_site in zip(together.sites, alone.sites, strict=True):
            everywhere = torch.ones(1, alone.grid.tokens, dtype=x.dtype)
            torch.testing.assert_close(
                together_site.reduce(everywhere.expand(5, -1))[number],
                alone_site.reduce(everywhere)[0],
            )


@pytest.mark.parametrize("name", ["swin", "swin-v2", "maxvit", "pvt-v2", "hiera", "cait"])
def test_checkpointing_changes_nothing(name: str) -> None:
    model, x = build(name, torch.float64), images(dtype=torch.float64)
    expected = record(model, x, target=1)
    model.set_grad_checkpointing(True)
    got = record(model, x, target=1)
    for site, expected_site in zip(got.sites, expected.sites, strict=True):
        assert site.gradient is not None and expected_site.gradient is not None
        torch.testing.assert_close(site.gradient, expected_site.gradient)
        torch.testing.assert_close(site.attention(), expected_site.attention())


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
    """Attention that folds windows and heads into the batch in a given order."""

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
        q, k, v = (tensor.permute(*order, 4, 5).reshape(-1, 16, 4) for tensor in (q, k, v))
        attention = ((q @ k.transpose(1, 2)) / 2).softmax(dim=-1)
        out = (attention @ v).reshape(*lead, 4, 4, 4).permute(*back, 4, 5, 6)  # b y x h 4 4 d
        return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, 8)


def test_groups_and_heads_folded_into_one_axis_are_told_apart() -> None:
    x, maps = images(3, torch.float64), []
    for order in ("heads last", "heads first", "images last"):
        torch.manual_seed(0)
        recorded = record(_Folded(order).double(), x, target=[0, 1, 2])
        (site_record,) = recorded.sites
        assert site_record.shape == (36, 2, 16, 16) and recorded.grid.shape == (12, 16)
        weights = torch.rand(3, 192, generator=torch.manual_seed(1), dtype=torch.float64)
        maps.append(site_record.reduce(weights, lambda a, da: a * da).sort(dim=1).values)
    torch.testing.assert_close(maps[1], maps[0])
    torch.testing.assert_close(maps[2], maps[0])


class _Shuffled(nn.Module):
    """Model that reads the left half of the image twice, so patches are queries twice."""

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
    recorded, expected = (
        record(model, big, target=1),
        record(model.inner, big[..., 20:68, 7:71], target=1),
    )
    assert recorded.grid == replace(expected.grid, image_size=(96, 128), origin=(20.0, 7.0))
    everywhere = torch.ones(1, expected.grid.tokens, dtype=torch.float64)
    for site, expected_site in zip(recorded.sites, expected.sites, strict=True):
        assert torch.equal(site.reduce(everywhere), expected_site.reduce(everywhere))
