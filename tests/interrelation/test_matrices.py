"""The figures from whole matrices that another forward pass left, patch by patch.

The matrices are those of hooks on unfused attention, the windows are timm's own, and p, u, v are
those of METHOD: nothing here knows of records, placements or sides.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import window_partition
from torch import Tensor

from semattn import record
from semattn.attention import AttentionRecord, AttentionSite, SiteRecord
from semattn.attention.token_map import Placement
from semattn.density import concentration, strata
from semattn.grid import PatchGrid
from semattn.interrelation.measure import measure
from semattn.interrelation.nulls import PatchDistributions
from tests import families, models
from tests.oracles import dense_record

Array = np.ndarray


def held(patches: int, batch: int = 2, distributions: int = 2) -> PatchDistributions:
    """Random p and strata that have nothing to do with each other, and random outliers."""
    chance = torch.manual_seed(7)
    p = torch.rand(batch, distributions, patches, generator=chance, dtype=torch.float64) ** 2
    groups = torch.randint(3, p.shape, generator=chance).to(torch.int8)
    groups[:, 1] = groups[:, 0]
    keep = torch.rand(batch, patches, generator=chance) > 0.2
    p[:, 1] = p[:, 0] * keep
    return PatchDistributions(p / p.sum(-1, keepdim=True), groups, keep)


def lift(a: Array, seen: Array, p: Array, group: Array, u: int, v: int) -> float:
    """METHOD 2, with what a query can see in place of all patches."""
    found = chance = 0.0
    for i in np.flatnonzero(group == u):
        for j in np.flatnonzero(group == v):
            found += p[i] * a[i, j]
            chance += p[i] * seen[i, j] / seen[i].sum()
    return found / chance if chance > 0 else np.nan


def alignment(a: Array, seen: Array, p: Array, q: Array) -> float:
    """METHOD 2: sum_i q_i sum_j A_ij p_j, over what evenly spread attention would have."""
    even = seen / seen.sum(1, keepdims=True)
    return float(q @ a @ p) / float(q @ even @ p)


def check(
    found, image: int, layer: int, head: int, a: Array, seen: Array, against: PatchDistributions
) -> None:
    """All that is held against distributions, of one head's P x P attention, rows of any sum."""
    for place in range(against.weights.shape[1]):
        p, group = (one[image, place].numpy() for one in (against.weights, against.strata))
        keep = against.keep[image].numpy() if place == 1 else np.ones(len(p), bool)
        rest = a[np.ix_(keep, keep)]
        rest = rest / rest.sum(1, keepdims=True)
        visible, p, group = seen[np.ix_(keep, keep)], p[keep], group[keep]
        at = (image, layer, head, place)
        table = [[lift(rest, visible, p, group, u, v) for v in range(3)] for u in range(3)]
        close = {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(found.by_distribution["lift"][at], table, **close)
        plain = np.full(len(p), 1 / len(p))
        for name, q in (("alignment", p), ("alignment_plain", plain)):
            np.testing.assert_allclose(
                found.by_distribution[name][at], alignment(rest, visible, p, q), **close
            )


def test_windows_shifts_and_coarser_grids_have_the_figures_of_whole_matrices():
    model, x = families.build("swin", torch.float64), models.images(2, torch.float64)
    taken = record(model, x, grad=False)
    against = held(taken.grid.patches)
    found, dense = measure(taken, against), dense_record(model, x, [0, 0])
    blocks = [block for stage in model.layers for block in stage.blocks]
    assert {block.shift_size for block in blocks} > {(0, 0)}
    for layer, (block, attention) in enumerate(zip(blocks, dense.attention, strict=True)):
        table = _windows(block)
        times = 12 // block.input_resolution[0]
        for image in range(2):
            for head in range(attention.shape[1]):
                a, seen = np.zeros((2, *[int(np.prod(block.input_resolution))] * 2))
                for number, members in enumerate(table):
                    real = np.flatnonzero(members >= 0)
                    part = attention[image * len(table) + number, head].numpy()
                    at = np.ix_(members[real], members[real])
                    a[at] = part[np.ix_(real, real)]
                    seen[at] = part[np.ix_(real, real)] > 1e-30  # masked by -100
                fine = [_refined(one, block.input_resolution, times) for one in (a, seen)]
                check(found, image, layer, head, *fine, against)


def _windows(block) -> Array:
    """Patch numbers (windows, n) of a timm block; -1 for padding."""
    (rows, columns), (tall, wide) = block.input_resolution, block.window_size
    numbers = torch.arange(rows * columns).double().reshape(1, rows, columns, 1)
    numbers = numbers.roll([-one for one in block.shift_size], (1, 2))
    padding = (0, 0, 0, -columns % wide, 0, -rows % tall)
    padded = torch.nn.functional.pad(numbers, padding, value=-1.0)
    return window_partition(padded, block.window_size).flatten(1).long().numpy()


def _refined(coarse: Array, shape: tuple[int, int], times: int) -> Array:
    """A patch of `times` x `times` gives what it gives, and takes evenly, with each of its own."""
    row, column = np.divmod(np.arange(shape[0] * shape[1] * times**2), shape[1] * times)
    at = row // times * shape[1] + column // times
    return coarse[np.ix_(at, at)] / times**2


# One head on a plain grid, made of scores


def alone(grid: PatchGrid, dtype: torch.dtype = torch.float64, **parts: Tensor) -> AttentionRecord:
    """A record of one site; q, k and v are 0 unless given."""
    tokens = grid.tokens
    nothing = torch.zeros(1, 1, tokens, 4, dtype=dtype)
    parts = {"query": nothing, "key": nothing, "value": nothing} | parts
    place = Placement(grid, grid, 1)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    one = SiteRecord(site, (1, parts["query"].shape[1], tokens, tokens), place, place, **parts)
    no = torch.zeros(1)
    return AttentionRecord((one,), grid, no[:, None], None, None, None)


def of_density(s: Tensor) -> PatchDistributions:
    p, groups = concentration(s), strata(s)
    return PatchDistributions(
        torch.stack([p, p], 1), torch.stack([groups] * 2, 1), torch.ones_like(p).bool()
    )


@pytest.mark.parametrize("constant", [-60.0, -44.0, -20.0, 0.0, 20.0, 44.0, 90.0])
def test_a_constant_on_all_scores_changes_nothing(constant):
    """Softmax does not see it; neither may what counts as masked."""
    grid, chance = PatchGrid((3, 4), (48, 64), (16, 16)), torch.manual_seed(0)
    query, key = (torch.randn(1, 2, 12, 8, generator=chance).double() * 2 for _ in range(2))
    mask = torch.zeros(12, 12).double()
    mask[:, 9:] = -100  # as Swin masks
    against = held(12, batch=1)
    expected, found = (
        measure(alone(grid, query=query, key=key, mask=mask + add), against)
        for add in (0.0, constant)
    )
    for name, values in expected.by_distribution.items():
        torch.testing.assert_close(found.by_distribution[name], values, equal_nan=True)
    for name, values in expected.plain.items():
        torch.testing.assert_close(found.plain[name], values, equal_nan=True)


@pytest.mark.parametrize("side", [14, 24, 37])
def test_uniform_attention_is_chance_where_few_patches_are_empty(side):
    """Closed form at the sizes that models have: one EMPTY patch counts like the others."""
    grid = PatchGrid((side, side), (side, side), (1, 1), prefix=1)
    s = 1.0 + torch.arange(side**2).double().remainder(3)[None]
    s[0, 5] = 0
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        found = measure(alone(grid, dtype), of_density(s)).by_distribution["lift"][0, 0, 0, 0]
        np.testing.assert_allclose(found, np.ones((3, 3)), rtol=tolerance)


@pytest.mark.parametrize("side", [14, 24])
def test_where_no_patch_is_empty_lifts_of_empty_are_undefined(side):
    grid, count = PatchGrid((side, side), (side, side), (1, 1), prefix=1), side**2 + 1
    for seed in range(3):
        chance = torch.manual_seed(seed)
        s = 1 + torch.poisson(torch.ones(1, side**2), generator=chance).double()
        mask = torch.randn(1, 2, count, count, generator=chance) / 10  # a relative position bias
        query, key = (torch.randn(1, 2, count, 8, generator=chance) for _ in range(2))
        found = measure(
            alone(grid, query=query, key=key, mask=mask), of_density(s)
        ).by_distribution["lift"]
        table = found[0, 0, :, 0]
        assert table[:, 0].isnan().all() and table[:, :, 0].isnan().all()
        assert table[:, 1:, 1:].isfinite().all()
