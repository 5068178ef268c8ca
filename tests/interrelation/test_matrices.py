"""Interrelation metrics computed from full attention matrices of a separate forward pass.

The matrices come from hooks on unfused attention, the windows from timm, and the formulas from
METHOD, independently of records and placements.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.models.swin_transformer import window_partition
from torch import Tensor

from semattn import record
from semattn.attention import AttentionRecord, AttentionSite, Prediction, SiteRecord
from semattn.attention.token_map import TokenMap
from semattn.density import concentration, strata
from semattn.grid import PatchGrid
from semattn.interrelation.measure import measure
from semattn.interrelation.nulls import PatchDistributions
from tests import families, models
from tests.oracles import dense_record

Array = np.ndarray


def random_distributions(
    patches: int, batch: int = 2, distributions: int = 2
) -> PatchDistributions:
    """Return random p, independent random strata, and random outliers."""
    generator = torch.manual_seed(7)
    p = torch.rand(batch, distributions, patches, generator=generator, dtype=torch.float64) ** 2
    groups = torch.randint(3, p.shape, generator=generator).to(torch.int8)
    groups[:, 1] = groups[:, 0]
    keep = torch.rand(batch, patches, generator=generator) > 0.2
    p[:, 1] = p[:, 0] * keep
    return PatchDistributions(p / p.sum(-1, keepdim=True), groups, keep)


def lift(a: Array, visible: Array, p: Array, groups: Array, u: int, v: int) -> float:
    """Compute the lift of METHOD 2, with the visible keys of a query in place of all patches."""
    attended = even = 0.0
    for i in np.flatnonzero(groups == u):
        for j in np.flatnonzero(groups == v):
            attended += p[i] * a[i, j]
            even += p[i] * visible[i, j] / visible[i].sum()
    return attended / even if even > 0 else np.nan


def alignment(a: Array, visible: Array, p: Array, q: Array) -> float:
    """Compute sum_i q_i sum_j A_ij p_j of METHOD 2, divided by its value under even attention."""
    even = visible / visible.sum(1, keepdims=True)
    return float(q @ a @ p) / float(q @ even @ p)


def check_head(
    measured,
    image: int,
    layer: int,
    head: int,
    a: Array,
    visible: Array,
    distributions: PatchDistributions,
) -> None:
    """Check the metrics of one head by distribution, from P x P attention with any row sums."""
    for index in range(distributions.weights.shape[1]):
        p, groups = (
            values[image, index].numpy() for values in (distributions.weights, distributions.strata)
        )
        keep = distributions.keep[image].numpy() if index == 1 else np.ones(len(p), bool)
        kept_attention = a[np.ix_(keep, keep)]
        kept_attention = kept_attention / kept_attention.sum(1, keepdims=True)
        kept_visible, p, groups = visible[np.ix_(keep, keep)], p[keep], groups[keep]
        at = (image, layer, head, index)
        table = [
            [lift(kept_attention, kept_visible, p, groups, u, v) for v in range(3)]
            for u in range(3)
        ]
        tolerance = {"rtol": 1e-9, "atol": 1e-12}
        np.testing.assert_allclose(measured.by_distribution["lift"][at], table, **tolerance)
        plain = np.full(len(p), 1 / len(p))
        for name, q in (("alignment", p), ("alignment_plain", plain)):
            np.testing.assert_allclose(
                measured.by_distribution[name][at],
                alignment(kept_attention, kept_visible, p, q),
                **tolerance,
            )


def test_windows_shifts_and_coarser_grids_have_the_figures_of_whole_matrices():
    model, x = families.build("swin", torch.float64), models.images(2, torch.float64)
    attention_record = record(model, x, grad=False)
    distributions = random_distributions(attention_record.grid.patches)
    measured, reference = measure(attention_record, distributions), dense_record(model, x, [0, 0])
    blocks = [block for stage in model.layers for block in stage.blocks]
    assert {block.shift_size for block in blocks} > {(0, 0)}
    for layer, (block, attention) in enumerate(zip(blocks, reference.attention, strict=True)):
        windows = _windows(block)
        scale = 12 // block.input_resolution[0]
        for image in range(2):
            for head in range(attention.shape[1]):
                a, visible = np.zeros((2, *[int(np.prod(block.input_resolution))] * 2))
                for window, members in enumerate(windows):
                    is_patch = np.flatnonzero(members >= 0)
                    part = attention[image * len(windows) + window, head].numpy()
                    indices = np.ix_(members[is_patch], members[is_patch])
                    a[indices] = part[np.ix_(is_patch, is_patch)]
                    visible[indices] = part[np.ix_(is_patch, is_patch)] > 1e-30  # masked by -100
                on_grid = [
                    _refine(matrix, block.input_resolution, scale) for matrix in (a, visible)
                ]
                check_head(measured, image, layer, head, *on_grid, distributions)


def _windows(block) -> Array:
    """Return the patch numbers (windows, n) of a timm block; -1 for padding."""
    (rows, columns), (height, width) = block.input_resolution, block.window_size
    numbers = torch.arange(rows * columns).double().reshape(1, rows, columns, 1)
    numbers = numbers.roll([-shift for shift in block.shift_size], (1, 2))
    padding = (0, 0, 0, -columns % width, 0, -rows % height)
    padded = torch.nn.functional.pad(numbers, padding, value=-1.0)
    return window_partition(padded, block.window_size).flatten(1).long().numpy()


def _refine(coarse: Array, shape: tuple[int, int], scale: int) -> Array:
    """Expand attention between coarse patches to their `scale` x `scale` fine patches, evenly."""
    row, column = np.divmod(np.arange(shape[0] * shape[1] * scale**2), shape[1] * scale)
    coarse_index = row // scale * shape[1] + column // scale
    return coarse[np.ix_(coarse_index, coarse_index)] / scale**2


# One head on a plain grid, built from scores


def single_site(
    grid: PatchGrid, dtype: torch.dtype = torch.float64, **parts: Tensor
) -> AttentionRecord:
    """Return a record of one site; q, k and v are 0 unless passed."""
    tokens = grid.tokens
    zeros = torch.zeros(1, 1, tokens, 4, dtype=dtype)
    parts = {"query": zeros, "key": zeros, "value": zeros} | parts
    placement = TokenMap(grid, grid, 1)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    site_record = SiteRecord(
        site, (1, parts["query"].shape[1], tokens, tokens), placement, placement, **parts
    )
    zero = torch.zeros(1)
    return AttentionRecord((site_record,), grid, Prediction(zero[:, None]), None)


def of_density(s: Tensor) -> PatchDistributions:
    p, groups = concentration(s), strata(s)
    return PatchDistributions(
        torch.stack([p, p], 1), torch.stack([groups] * 2, 1), torch.ones_like(p).bool()
    )


@pytest.mark.parametrize("constant", [-60.0, -44.0, -20.0, 0.0, 20.0, 44.0, 90.0])
def test_a_constant_on_all_scores_changes_nothing(constant):
    """Check that softmax and the detection of masked keys ignore a constant."""
    grid, generator = PatchGrid((3, 4), (48, 64), (16, 16)), torch.manual_seed(0)
    query, key = (torch.randn(1, 2, 12, 8, generator=generator).double() * 2 for _ in range(2))
    mask = torch.zeros(12, 12).double()
    mask[:, 9:] = -100  # as Swin masks
    distributions = random_distributions(12, batch=1)
    expected, shifted = (
        measure(single_site(grid, query=query, key=key, mask=mask + offset), distributions)
        for offset in (0.0, constant)
    )
    for name, values in expected.by_distribution.items():
        torch.testing.assert_close(shifted.by_distribution[name], values, equal_nan=True)
    for name, values in expected.plain.items():
        torch.testing.assert_close(shifted.plain[name], values, equal_nan=True)


@pytest.mark.parametrize("side", [14, 24, 37])
def test_uniform_attention_is_chance_where_few_patches_are_empty(side):
    """Check the closed form at common grid sizes, with a single EMPTY patch."""
    grid = PatchGrid((side, side), (side, side), (1, 1), prefix=1)
    s = 1.0 + torch.arange(side**2).double().remainder(3)[None]
    s[0, 5] = 0
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        lift_table = measure(single_site(grid, dtype), of_density(s)).by_distribution["lift"][
            0, 0, 0, 0
        ]
        np.testing.assert_allclose(lift_table, np.ones((3, 3)), rtol=tolerance)


@pytest.mark.parametrize("side", [14, 24])
def test_where_no_patch_is_empty_lifts_of_empty_are_undefined(side):
    grid, count = PatchGrid((side, side), (side, side), (1, 1), prefix=1), side**2 + 1
    for seed in range(3):
        generator = torch.manual_seed(seed)
        s = 1 + torch.poisson(torch.ones(1, side**2), generator=generator).double()
        mask = torch.randn(1, 2, count, count, generator=generator) / 10  # a relative position bias
        query, key = (torch.randn(1, 2, count, 8, generator=generator) for _ in range(2))
        lifts = measure(
            single_site(grid, query=query, key=key, mask=mask), of_density(s)
        ).by_distribution["lift"]
        table = lifts[0, 0, :, 0]
        assert table[:, 0].isnan().all() and table[:, :, 0].isnan().all()
        assert table[:, 1:, 1:].isfinite().all()
