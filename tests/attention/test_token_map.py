"""Mapping between the tokens of a grid and of a call, by hand and against timm's windows."""

from __future__ import annotations

import pytest
import torch
from timm.models.swin_transformer import window_partition
from torch import Tensor

from semattn import SIFTPatchInterrelation
from semattn.attention import record
from semattn.attention.token_map import TokenMap
from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from tests.families import build
from tests.models import images
from tests.oracles import dense_record

COMMON = PatchGrid((2, 4), (16, 32), (8, 8), prefix=1)
COARSE = PatchGrid((1, 2), (16, 32), (16, 16), prefix=1)


def test_a_coarse_patch_holds_the_sum_of_the_fine_ones_and_gives_it_back_evenly() -> None:
    at = TokenMap(COARSE, COMMON, batch=1)
    fine = torch.tensor([[9.0, 1, 2, 3, 4, 5, 6, 7, 8]])
    assert at.to_call(fine).tolist() == [[9, 1 + 2 + 5 + 6, 3 + 4 + 7 + 8]]
    gathered = at.to_grid(torch.tensor([[[9.0, 4, 8]]]))
    assert gathered.tolist() == [[[9, 1, 1, 2, 2, 1, 1, 2, 2]]]


def test_grids_that_do_not_divide_share_by_area() -> None:
    at = TokenMap(PatchGrid((1, 2), (8, 24), (8, 12)), PatchGrid((1, 3), (8, 24), (8, 8)), batch=1)
    assert at.to_call(torch.tensor([[2.0, 4.0, 6.0]])).tolist() == [[4, 8]]
    assert at.to_grid(torch.tensor([[[3.0, 9.0]]])).tolist() == [[[2, 4, 6]]]


def test_prefix_tokens_that_a_call_lacks_are_dropped_and_come_back_empty() -> None:
    at = TokenMap(PatchGrid((2, 4), (16, 32), (8, 8)), COMMON, batch=1)
    assert at.to_call(torch.arange(9.0)[None]).tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert at.to_grid(torch.ones(1, 1, 8)).tolist() == [[[0, 1, 1, 1, 1, 1, 1, 1, 1]]]


def test_windows_are_spread_and_collected_with_padding_and_repeats() -> None:
    grid = PatchGrid((1, 4), (8, 32), (8, 8))
    image, token = torch.tensor([0, 0, 1, 1]), torch.tensor([[1, 0], [3, -1], [0, 1], [1, 2]])
    at = TokenMap(grid, grid, batch=2, image=image, token=token)
    weights = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8]])
    assert at.to_call(weights).tolist() == [[2, 1], [4, 0], [5, 6], [6, 7]]
    values = torch.tensor([[[1.0, 2]], [[4, 100]], [[8, 16]], [[32, 64]]])
    assert at.to_grid(values).tolist() == [[[2, 1, 0, 4]], [[8, 48, 64, 0]]]
    assert at.per_image(values.sum(-1)).tolist() == [[107], [120]]


def test_weights_of_another_size_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"weights: expected \(1, 9\).*got \(1, 8\)"):
        TokenMap(COARSE, COMMON, batch=1).to_call(torch.ones(1, 8))


def _windows(rows: int, columns: int, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Return patch numbers (windows, n) in timm's partition; -1 for padding."""
    numbers = torch.arange(rows * columns, dtype=torch.float64).reshape(1, rows, columns, 1)
    numbers = numbers.roll((-shift[0], -shift[1]), (1, 2))
    pad = (0, 0, 0, -columns % window[1], 0, -rows % window[0])
    padded = torch.nn.functional.pad(numbers, pad, value=-1.0)
    return window_partition(padded, window).flatten(1).long()


@pytest.mark.parametrize("batch", [1, 3])
def test_swin_windows_are_those_that_timm_makes(batch: int) -> None:
    model = build("swin")
    recorded = record(model, images(batch), grad=False)
    blocks = [block for layer in model.layers for block in layer.blocks]
    for site_record, block in zip(recorded.sites, blocks, strict=True):
        rows, columns = site_record.keys_at.call_grid.shape
        expected = _windows(rows, columns, block.window_size, block.shift_size).repeat(batch, 1)
        for at in (site_record.keys_at, site_record.queries_at):
            weights = torch.arange(batch * rows * columns).reshape(batch, -1) + 1.0
            got = TokenMap(at.call_grid, at.call_grid, batch, at.image, at.token).to_call(weights)
            image = torch.arange(batch).repeat_interleave(len(expected) // batch)[:, None]
            expected_weights = torch.where(expected < 0, 0, expected + image * rows * columns + 1)
            assert torch.equal(got, expected_weights.double())


def test_the_interrelation_in_windows_equals_loops() -> None:
    """Compare with sums over every query and key in timm's partition of the patches."""
    model, x = build("swin", torch.float64), images(dtype=torch.float64)
    p = torch.rand(2, 192, generator=torch.manual_seed(3), dtype=torch.float64) + 0.3
    p = p / p.sum(dim=-1, keepdim=True)
    explainer = SIFTPatchInterrelation(
        layers="all", density=lambda scene: p - 0.1 / 1.1 * p.mean(-1, keepdim=True)
    )
    got = explainer.patch_map(model, x, target=[1, 3]).flatten(1)
    dense = dense_record(model, x, [1, 3])
    blocks = [block for layer in model.layers for block in layer.blocks]
    total = torch.zeros(2, 12, 16, dtype=torch.float64)
    for block, attention, gradient in zip(blocks, dense.attention, dense.gradient, strict=True):
        rows, columns = block.input_resolution
        times = 12 // rows
        table = _windows(rows, columns, block.window_size, block.shift_size)
        coarse = p.reshape(2, rows, times, columns, times).sum(dim=(2, 4)).flatten(1)
        for b in range(2):
            for head in range(attention.shape[1]):
                gathered, share = torch.zeros(rows * columns, dtype=torch.float64), 0.0
                for number, patches in enumerate(table.tolist()):
                    a = attention[b * len(table) + number, head]
                    relevance = (a * gradient[b * len(table) + number, head]).clamp(min=0)
                    real = [j for j, patch in enumerate(patches) if patch >= 0]
                    for i in real:
                        weight = float(coarse[b, patches[i]])
                        on_patches = sum(float(a[i, j]) for j in real)
                        dense_part = sum(float(a[i, j] * coarse[b, patches[j]]) for j in real)
                        share += weight * dense_part / on_patches
                        for j in real:
                            gathered[patches[j]] += weight * relevance[i, j]
                spread = gathered.reshape(rows, columns) * share * rows * columns / times**2
                total[b] += spread.repeat_interleave(times, 0).repeat_interleave(times, 1)
    expected = total.flatten(1)
    torch.testing.assert_close(got / expected.amax(), expected / expected.amax())


@pytest.mark.parametrize("name", ["swin", "pvt-v2", "hiera"])
def test_a_batch_of_weights_is_spread_like_each_of_them(name: str) -> None:
    recorded = record(build(name), images(2), grad=False)
    weights = torch.rand(2, 3, 2, recorded.grid.tokens, generator=torch.manual_seed(0))
    for site_record in recorded.sites:
        spread = site_record.keys_at.to_call(weights)
        for i in range(3):
            for j in range(2):
                expected = site_record.keys_at.to_call(weights[:, i, j])
                torch.testing.assert_close(spread[:, i, j], expected)


@pytest.mark.parametrize("name", ["swin", "swin-v2", "transformers-vit-eager", "levit"])
def test_scores_are_those_that_the_softmax_took(name: str) -> None:
    recorded = record(build(name), images(2), grad=False)
    for site_record in recorded.sites:
        rows, groups = slice(1, 3), slice(0, 1)
        expected = site_record.attention(rows)[groups]
        torch.testing.assert_close(site_record.scores(rows, groups).softmax(-1), expected)
