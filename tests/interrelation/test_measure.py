from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semattn import record
from semattn.attention import AttentionSite, SiteRecord
from semattn.attention.record import AttentionRecord
from semattn.attention.token_map import Placement
from semattn.density import concentration, strata
from semattn.grid import PatchGrid
from semattn.interrelation import measure as module
from semattn.interrelation.measure import PLAIN_METRICS, measure
from semattn.interrelation.nulls import PatchDistributions
from tests import families, models
from tests.interrelation import oracle

PLAIN = ("class-token", "registers", "gap", "unfused", "rope", "relative-bias")
WINDOWS = (
    "swin", "swin-v2", "maxvit", "pvt-v2", "hiera", "levit", "mvit-v2", "davit", "twins",
    "torchvision-vit", "torchvision-swin", "transformers-swin-eager", "transformers-vit-eager",
)  # fmt: skip


def density(grid: PatchGrid, batch: int = 2, seed: int = 0) -> Tensor:
    """Counts with empty patches among them, (B, P)."""
    drawn = torch.poisson(
        torch.full((batch, grid.patches), 1.2), generator=torch.manual_seed(seed)
    ).double()
    drawn[:, :2] = torch.tensor([0.0, 3.0])
    return drawn


def against(grid: PatchGrid, batch: int = 2, keep: Tensor | None = None) -> PatchDistributions:
    """The concentration, that without some patches, and one other distribution."""
    s = density(grid, batch)
    p, group = concentration(s), strata(s)
    if keep is None:
        keep = torch.ones_like(p).bool()
        keep[:, -1] = False
    kept = p * keep / (p * keep).sum(1, keepdim=True)
    s = density(grid, batch, seed=5)
    weights = torch.stack([p, kept, concentration(s)], 1)
    return PatchDistributions(weights, torch.stack([group, group, strata(s)], 1), keep)


def same(found, expected, **how):
    np.testing.assert_allclose(found, expected, **({"rtol": 1e-6, "atol": 1e-7} | how))


@pytest.mark.parametrize("name", [*PLAIN, *WINDOWS])
def test_every_figure_is_that_of_the_definition(name):
    build = models.build if name in models.MODELS else families.build
    images = models.images(2, torch.float64)
    taken = record(build(name, torch.float64), images, grad=False)
    held = against(taken.grid)
    found = measure(taken, held)
    how = {"rtol": 1e-5} if "eager" in name else {}  # whose softmax is in single precision
    for image in range(2):
        p, group = held.weights[image, 0].numpy(), held.strata[image, 0].numpy()
        every = np.ones(len(p), bool)
        whole = oracle.figures(taken, image, p, group, every)
        drawn = (one[image, 2].numpy() for one in (held.weights, held.strata))
        draws = oracle.figures(taken, image, *drawn, every)
        without = oracle.figures(taken, image, p, group, held.keep[image].numpy())
        for layer, (expected, kept, draw) in enumerate(zip(whole, without, draws, strict=True)):
            heads = found.layers[layer][1]
            for figure in ("lift", "alignment", "alignment_plain"):
                same(
                    found.by_distribution[figure][image, layer, :heads, 0], expected[figure], **how
                )
                same(found.by_distribution[figure][image, layer, :heads, 1], kept[figure], **how)
                same(found.by_distribution[figure][image, layer, :heads, 2], draw[figure], **how)
            for figure in PLAIN_METRICS:
                if figure == "self_attention" and not expected[figure].any():
                    assert found.plain[figure][image, layer].isnan().all()  # keys are not queries
                else:
                    reference = kept if figure == "outlier_mass" else expected
                    same(found.plain[figure][image, layer, :heads], reference[figure], **how)
            assert found.plain["entropy"][image, layer, heads:].isnan().all()


@pytest.mark.parametrize("name", ["class-token", "registers", "gap"])
def test_the_class_token_asks_alone(name):
    taken = record(models.build(name, torch.float64), models.images(2, torch.float64), grad=False)
    held = against(taken.grid)
    first = torch.eye(taken.grid.tokens)[0] if taken.grid.prefix else None
    found = measure(taken, held, first).by_distribution["class_alignment"]
    if name == "gap":
        assert found.isnan().all()
        return
    for image in range(2):
        for place in (0, 2):
            expected = oracle.class_alignment(taken, image, held.weights[image, place].numpy())
            same(found[image, :, :, place], np.stack(expected))


def test_single_precision_half_precision_and_small_blocks_agree(monkeypatch):
    images = models.images(3)
    exact = models.build("registers", torch.float64)
    taken = record(exact, images.double(), grad=False)
    held = against(taken.grid, 3)
    expected = measure(taken, held)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    one_by_one = measure(taken, held)
    for name, values in expected.by_distribution.items():
        same(one_by_one.by_distribution[name], values, rtol=1e-12)
    monkeypatch.undo()
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        model = models.build("registers", torch.float64).to(dtype)
        found = measure(record(model, images.to(dtype), grad=False), held)
        for name, values in expected.by_distribution.items():
            same(found.by_distribution[name], values, rtol=tolerance, atol=tolerance)


def test_great_scores_are_kept_from_overflowing():
    model = models.build("class-token", torch.float32)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:16] *= 8
            block.attn.qkv.bias[16:32] += 60 * torch.sign(block.attn.qkv.bias[:16])
    taken = record(model, models.images(2), grad=False)
    assert max(float(one.scores().abs().max()) for one in taken.sites) > 100
    found = measure(taken, against(taken.grid))
    for image in range(2):
        p, group = (
            one[image, 0].numpy()
            for one in (against(taken.grid).weights, against(taken.grid).strata)
        )
        for layer, expected in enumerate(oracle.figures(taken, image, p, group, np.ones(12, bool))):
            same(
                found.by_distribution["alignment"][image, layer, :, 0],
                expected["alignment"],
                rtol=1e-4,
            )
            same(found.plain["entropy"][image, layer], expected["entropy"], atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_uniform_attention_is_chance_everywhere(dtype, tolerance):
    model = models.UniformAttention(
        img_size=models.SIZE, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=5
    )
    taken = record(model.to(dtype).eval(), models.images(2, dtype), grad=False)
    held = against(taken.grid)
    found = measure(taken, held, torch.eye(taken.grid.tokens)[0])
    for name in ("alignment", "alignment_plain", "class_alignment"):
        same(found.by_distribution[name], 1, rtol=tolerance, atol=0)
    lift = found.by_distribution["lift"]
    assert lift.isfinite().any()
    same(lift[lift.isfinite()], 1, rtol=10 * tolerance, atol=0)
    patches, tokens = taken.grid.patches, taken.grid.tokens
    same(found.plain["alignment_matched"], 1, rtol=tolerance)
    same(found.plain["entropy"], np.log(patches), rtol=tolerance)
    same(found.plain["self_attention"], 1 / patches, rtol=tolerance)
    same(found.plain["prefix_mass"], 1 - patches / tokens, rtol=tolerance, atol=tolerance)
    centres = taken.grid.centers()
    same(found.plain["distance"], float(torch.cdist(centres, centres).mean()), rtol=tolerance)


@pytest.mark.parametrize(
    "name", ["swin", "torchvision-swin-v2", "maxvit", "pvt-v2", "hiera", "twins"]
)
def test_even_attention_to_what_a_query_sees_is_chance_in_windows_too(name):
    taken = record(families.build(name, torch.float64), models.images(2, torch.float64), grad=False)
    even = []
    for one in taken.sites:
        seen = (one.attention().amax(1, keepdim=True) > 1e-18).double()
        dense = (seen / seen.sum(-1, keepdim=True)).expand(one.shape)
        even.append(
            SiteRecord(one.site, one.shape, one.keys_at, one.queries_at, dense=dense.contiguous())
        )
    record_of_even = AttentionRecord(tuple(even), taken.grid, taken.logits, None, None, None)
    found = measure(record_of_even, against(taken.grid))
    for figure in ("alignment", "alignment_plain", "lift"):
        values = found.by_distribution[figure]
        same(values[values.isfinite()], 1, rtol=1e-9, atol=0)


def by_hand() -> tuple[AttentionRecord, PatchDistributions]:
    """Four patches in a row behind a class token, attention of one head written down.

    A second head attends evenly: what no head attends to would count as masked.
    """
    grid = PatchGrid((1, 4), image_size=(10, 40), cell=(10, 10), prefix=1)
    attention = torch.tensor(
        [
            [0.2, 0.1, 0.1, 0.2, 0.4],  # the class token
            [0.5, 0.2, 0.1, 0.1, 0.1],
            [0.0, 0.0, 1.0, 0.0, 0.0],
            [0.2, 0.0, 0.0, 0.4, 0.4],
            [0.2, 0.4, 0.0, 0.0, 0.4],
        ],
        dtype=torch.float64,
    )
    attention = torch.stack([attention, torch.full((5, 5), 0.2, dtype=torch.float64)])[None]
    place = Placement(grid, grid, 1)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    one = SiteRecord(site, (1, 2, 5, 5), place, place, dense=attention)
    taken = AttentionRecord((one,), grid, torch.zeros(1, 2), None, None, torch.tensor([True]))
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    group = torch.tensor([[0, 1, 2, 2]], dtype=torch.int8)  # EMPTY, LOW, HIGH, HIGH
    keep = torch.tensor([[False, True, True, True]])
    kept = p * keep / 0.9
    return taken, PatchDistributions(torch.stack([p, kept], 1), torch.stack([group] * 2, 1), keep)


def test_a_table_worked_out_by_hand():
    # A' of the patches: (.4 .2 .2 .2), (0 1 0 0), (0 0 .5 .5), (.5 0 0 .5)
    taken, held = by_hand()
    found = measure(taken, held, torch.eye(taken.grid.tokens)[0])
    lift = found.by_distribution["lift"][0, 0, 0, 0]
    # EMPTY asks: .4 to EMPTY of 1/4, .2 to LOW of 1/4, .4 to HIGH of 1/2
    same(lift[0], [1.6, 0.8, 0.8])
    same(lift[1], [0, 4, 0])
    # HIGH asks, by weights .3 and .4: (.3 * 0 + .4 * .5) / .7 = .2857 to EMPTY, and .7143 to HIGH
    same(lift[2], [0.2 / 0.7 * 4, 0, 0.5 / 0.7 * 2])
    # sum_j A'_ij p_j: .22, .2, .35, .25
    same(
        found.by_distribution["alignment"][0, 0, 0, 0],
        4 * (0.1 * 0.22 + 0.2 * 0.2 + 0.3 * 0.35 + 0.4 * 0.25),
    )
    same(found.by_distribution["alignment_plain"][0, 0, 0, 0], 0.22 + 0.2 + 0.35 + 0.25)
    # the class token's row on patches: .1 .1 .2 .4 of .8
    same(
        found.by_distribution["class_alignment"][0, 0, 0, 0], 4 * (0.01 + 0.02 + 0.06 + 0.16) / 0.8
    )
    # away: row 0 (0 10 20 30), 1: 0, 2: half of 10, 3: half of 30
    same(found.plain["distance"][0, 0, 0], (0.2 * 10 + 0.2 * 20 + 0.2 * 30 + 0 + 5 + 15) / 4)
    # each patch of a row of four has its own mirror only: rings hold one patch, or two
    matched = 4 * [0.0]
    matched[0] = 0.4 * 0.1 + 0.2 * 0.2 + 0.2 * 0.3 + 0.2 * 0.4
    matched[1] = 0.2
    matched[2] = 0.5 * 0.3 + 0.5 * (0.2 + 0.4) / 2
    matched[3] = 0.5 * 0.1 + 0.5 * 0.4
    dense = 0.1 * 0.22 + 0.2 * 0.2 + 0.3 * 0.35 + 0.4 * 0.25
    expected = dense / (0.1 * matched[0] + 0.2 * matched[1] + 0.3 * matched[2] + 0.4 * matched[3])
    same(found.plain["alignment_matched"][0, 0, 0], expected)
    rows = ((0.4, 0.2, 0.2, 0.2), (1.0,), (0.5, 0.5), (0.5, 0.5))
    entropy = [-sum(a * np.log(a) for a in row) for row in rows]
    same(found.plain["entropy"][0, 0, 0], np.mean(entropy))
    same(found.plain["self_attention"][0, 0, 0], (0.4 + 1 + 0.5 + 0.5) / 4)
    same(found.plain["prefix_mass"][0, 0, 0], (0.5 + 0 + 0.2 + 0.2) / 4)


def test_figures_without_outliers_worked_out_by_hand():
    # Without patch 0, rows are (1 0 0), (0 .5 .5), (0 0 1) of patches 1 to 3.
    taken, held = by_hand()
    found = measure(taken, held)
    lift = found.by_distribution["lift"][0, 0, 0, 1]
    assert lift[0].isnan().all() and lift[:, 0].isnan().all()  # nothing is EMPTY any more
    same(lift[1, 1:], [3, 0])
    same(lift[2, 1:], [0, 1.5])
    # p without patch 0: 2/9, 3/9, 4/9; rows reach 2/9, 3.5/9, 4/9
    same(found.by_distribution["alignment"][0, 0, 0, 1], 3 * (4 + 10.5 + 16) / 81)
    same(found.by_distribution["alignment_plain"][0, 0, 0, 1], (2 + 3.5 + 4) / 9)
    # patches give patch 0 .4, nothing, nothing and a half
    same(found.plain["outlier_mass"][0, 0, 0], 0.9 / 4)
