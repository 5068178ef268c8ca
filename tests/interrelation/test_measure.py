from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semattn import record
from semattn.attention import AttentionRecord, AttentionSite, Prediction, SiteRecord
from semattn.attention.token_map import TokenMap
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
    """Return random counts (B, P) with empty patches."""
    counts = torch.poisson(
        torch.full((batch, grid.patches), 1.2), generator=torch.manual_seed(seed)
    ).double()
    counts[:, :2] = torch.tensor([0.0, 3.0])
    return counts


def distributions_on(
    grid: PatchGrid, batch: int = 2, keep: Tensor | None = None
) -> PatchDistributions:
    """Return a concentration, the same without some patches, and one other distribution."""
    s = density(grid, batch)
    p, groups = concentration(s), strata(s)
    if keep is None:
        keep = torch.ones_like(p).bool()
        keep[:, -1] = False
    kept_p = p * keep / (p * keep).sum(1, keepdim=True)
    s = density(grid, batch, seed=5)
    weights = torch.stack([p, kept_p, concentration(s)], 1)
    return PatchDistributions(weights, torch.stack([groups, groups, strata(s)], 1), keep)


def same(actual, expected, **tolerances):
    np.testing.assert_allclose(actual, expected, **({"rtol": 1e-6, "atol": 1e-7} | tolerances))


@pytest.mark.parametrize("name", [*PLAIN, *WINDOWS])
def test_metrics_match_the_reference(name):
    images = models.images(2, torch.float64)
    attention = record(families.build(name, torch.float64), images, grad=False)
    distributions = distributions_on(attention.grid)
    measured = measure(attention, distributions)
    tolerances = {"rtol": 1e-5} if "eager" in name else {}  # softmax in single precision
    for image in range(2):
        p, groups = distributions.weights[image, 0].numpy(), distributions.strata[image, 0].numpy()
        all_patches = np.ones(len(p), bool)
        on_all = oracle.expected_metrics(attention, image, p, groups, all_patches)
        draw_weights = (
            values[image, 2].numpy() for values in (distributions.weights, distributions.strata)
        )
        on_draw = oracle.expected_metrics(attention, image, *draw_weights, all_patches)
        on_kept = oracle.expected_metrics(
            attention, image, p, groups, distributions.keep[image].numpy()
        )
        for layer, (expected, without, draw) in enumerate(
            zip(on_all, on_kept, on_draw, strict=True)
        ):
            heads = measured.layers[layer][1]
            for metric in ("lift", "alignment", "alignment_plain"):
                same(
                    measured.by_distribution[metric][image, layer, :heads, 0],
                    expected[metric],
                    **tolerances,
                )
                same(
                    measured.by_distribution[metric][image, layer, :heads, 1],
                    without[metric],
                    **tolerances,
                )
                same(
                    measured.by_distribution[metric][image, layer, :heads, 2],
                    draw[metric],
                    **tolerances,
                )
            for metric in PLAIN_METRICS:
                if metric == "self_attention" and not expected[metric].any():
                    assert (
                        measured.plain[metric][image, layer].isnan().all()
                    )  # keys are not queries
                else:
                    reference = without if metric == "outlier_mass" else expected
                    same(
                        measured.plain[metric][image, layer, :heads],
                        reference[metric],
                        **tolerances,
                    )
            assert measured.plain["entropy"][image, layer, heads:].isnan().all()


@pytest.mark.parametrize("name", ["class-token", "registers", "gap"])
def test_class_alignment_matches_the_reference(name):
    attention = record(
        models.build(name, torch.float64), models.images(2, torch.float64), grad=False
    )
    distributions = distributions_on(attention.grid)
    first = torch.eye(attention.grid.tokens)[0] if attention.grid.prefix else None
    alignment = measure(attention, distributions, first).by_distribution["class_alignment"]
    if name == "gap":
        assert alignment.isnan().all()
        return
    for image in range(2):
        for index in (0, 2):
            expected = oracle.class_alignment(
                attention, image, distributions.weights[image, index].numpy()
            )
            same(alignment[image, :, :, index], np.stack(expected))


def test_single_precision_half_precision_and_small_blocks_agree(monkeypatch):
    images = models.images(3)
    exact = models.build("registers", torch.float64)
    attention = record(exact, images.double(), grad=False)
    distributions = distributions_on(attention.grid, 3)
    expected = measure(attention, distributions)
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    in_blocks = measure(attention, distributions)
    for name, values in expected.by_distribution.items():
        same(in_blocks.by_distribution[name], values, rtol=1e-12)
    monkeypatch.undo()
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.2)):
        model = models.build("registers", torch.float64).to(dtype)
        measured = measure(record(model, images.to(dtype), grad=False), distributions)
        for name, values in expected.by_distribution.items():
            same(measured.by_distribution[name], values, rtol=tolerance, atol=tolerance)


def test_large_scores_do_not_overflow():
    model = models.build("class-token", torch.float32)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:16] *= 8
            block.attn.qkv.bias[16:32] += 60 * torch.sign(block.attn.qkv.bias[:16])
    attention = record(model, models.images(2), grad=False)
    assert max(float(site.scores().abs().max()) for site in attention.sites) > 100
    measured = measure(attention, distributions_on(attention.grid))
    for image in range(2):
        p, groups = (
            values[image, 0].numpy()
            for values in (
                distributions_on(attention.grid).weights,
                distributions_on(attention.grid).strata,
            )
        )
        for layer, expected in enumerate(
            oracle.expected_metrics(attention, image, p, groups, np.ones(12, bool))
        ):
            same(
                measured.by_distribution["alignment"][image, layer, :, 0],
                expected["alignment"],
                rtol=1e-4,
            )
            same(measured.plain["entropy"][image, layer], expected["entropy"], atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_uniform_attention_gives_one(dtype, tolerance):
    model = models.UniformAttention(
        img_size=models.SIZE, patch_size=16, embed_dim=16, depth=4, num_heads=2, num_classes=5
    )
    attention = record(model.to(dtype).eval(), models.images(2, dtype), grad=False)
    distributions = distributions_on(attention.grid)
    measured = measure(attention, distributions, torch.eye(attention.grid.tokens)[0])
    for name in ("alignment", "alignment_plain", "class_alignment"):
        same(measured.by_distribution[name], 1, rtol=tolerance, atol=0)
    lift = measured.by_distribution["lift"]
    assert lift.isfinite().any()
    same(lift[lift.isfinite()], 1, rtol=10 * tolerance, atol=0)
    patches, tokens = attention.grid.patches, attention.grid.tokens
    same(measured.plain["alignment_matched"], 1, rtol=tolerance)
    same(measured.plain["entropy"], np.log(patches), rtol=tolerance)
    same(measured.plain["self_attention"], 1 / patches, rtol=tolerance)
    same(measured.plain["prefix_mass"], 1 - patches / tokens, rtol=tolerance, atol=tolerance)
    centres = attention.grid.centers()
    same(measured.plain["distance"], float(torch.cdist(centres, centres).mean()), rtol=tolerance)


@pytest.mark.parametrize(
    "name", ["swin", "torchvision-swin-v2", "maxvit", "pvt-v2", "hiera", "twins"]
)
def test_uniform_attention_in_windows_gives_one(name):
    attention = record(
        families.build(name, torch.float64), models.images(2, torch.float64), grad=False
    )
    sites = []
    for site in attention.sites:
        visible = (site.attention().amax(1, keepdim=True) > 1e-18).double()
        even = (visible / visible.sum(-1, keepdim=True)).expand(site.shape)
        sites.append(
            SiteRecord(
                site.site, site.shape, site.keys_at, site.queries_at, dense=even.contiguous()
            )
        )
    even_record = AttentionRecord(tuple(sites), attention.grid, attention.prediction, None)
    measured = measure(even_record, distributions_on(attention.grid))
    for metric in ("alignment", "alignment_plain", "lift"):
        values = measured.by_distribution[metric]
        same(values[values.isfinite()], 1, rtol=1e-9, atol=0)


def example_record() -> tuple[AttentionRecord, PatchDistributions]:
    """Return an explicit attention matrix of a class token and four patches in a row.

    A second head has uniform attention, because a key without attention from any head counts as
    masked.
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
    placement = TokenMap(grid, grid, 1)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    site_record = SiteRecord(site, (1, 2, 5, 5), placement, placement, dense=attention)
    attention = AttentionRecord(
        (site_record,), grid, Prediction(torch.zeros(1, 2)), torch.tensor([True])
    )
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    groups = torch.tensor([[0, 1, 2, 2]], dtype=torch.int8)  # EMPTY, LOW, HIGH, HIGH
    keep = torch.tensor([[False, True, True, True]])
    kept_p = p * keep / 0.9
    return attention, PatchDistributions(
        torch.stack([p, kept_p], 1), torch.stack([groups] * 2, 1), keep
    )


def test_metrics_of_a_hand_computed_example():
    # A' of the patches: (.4 .2 .2 .2), (0 1 0 0), (0 0 .5 .5), (.5 0 0 .5)
    attention, distributions = example_record()
    measured = measure(attention, distributions, torch.eye(attention.grid.tokens)[0])
    lift = measured.by_distribution["lift"][0, 0, 0, 0]
    # from EMPTY: .4 to EMPTY of 1/4, .2 to LOW of 1/4, .4 to HIGH of 1/2
    same(lift[0], [1.6, 0.8, 0.8])
    same(lift[1], [0, 4, 0])
    # from HIGH, weights .3 and .4: (.3 * 0 + .4 * .5) / .7 = .2857 to EMPTY, and .7143 to HIGH
    same(lift[2], [0.2 / 0.7 * 4, 0, 0.5 / 0.7 * 2])
    # sum_j A'_ij p_j: .22, .2, .35, .25
    same(
        measured.by_distribution["alignment"][0, 0, 0, 0],
        4 * (0.1 * 0.22 + 0.2 * 0.2 + 0.3 * 0.35 + 0.4 * 0.25),
    )
    same(measured.by_distribution["alignment_plain"][0, 0, 0, 0], 0.22 + 0.2 + 0.35 + 0.25)
    # the class token's row on patches: .1 .1 .2 .4 of .8
    same(
        measured.by_distribution["class_alignment"][0, 0, 0, 0],
        4 * (0.01 + 0.02 + 0.06 + 0.16) / 0.8,
    )
    # distances: row 0 (0 10 20 30), 1: 0, 2: half of 10, 3: half of 30
    same(measured.plain["distance"][0, 0, 0], (0.2 * 10 + 0.2 * 20 + 0.2 * 30 + 0 + 5 + 15) / 4)
    # at each distance there are one or two patches
    matched = 4 * [0.0]
    matched[0] = 0.4 * 0.1 + 0.2 * 0.2 + 0.2 * 0.3 + 0.2 * 0.4
    matched[1] = 0.2
    matched[2] = 0.5 * 0.3 + 0.5 * (0.2 + 0.4) / 2
    matched[3] = 0.5 * 0.1 + 0.5 * 0.4
    dense = 0.1 * 0.22 + 0.2 * 0.2 + 0.3 * 0.35 + 0.4 * 0.25
    expected = dense / (0.1 * matched[0] + 0.2 * matched[1] + 0.3 * matched[2] + 0.4 * matched[3])
    same(measured.plain["alignment_matched"][0, 0, 0], expected)
    rows = ((0.4, 0.2, 0.2, 0.2), (1.0,), (0.5, 0.5), (0.5, 0.5))
    entropy = [-sum(share * np.log(share) for share in row) for row in rows]
    same(measured.plain["entropy"][0, 0, 0], np.mean(entropy))
    same(measured.plain["self_attention"][0, 0, 0], (0.4 + 1 + 0.5 + 0.5) / 4)
    same(measured.plain["prefix_mass"][0, 0, 0], (0.5 + 0 + 0.2 + 0.2) / 4)


def test_metrics_without_outliers_of_a_hand_computed_example():
    # Without patch 0, rows are (1 0 0), (0 .5 .5), (0 0 1) of patches 1 to 3.
    attention, distributions = example_record()
    measured = measure(attention, distributions)
    lift = measured.by_distribution["lift"][0, 0, 0, 1]
    assert lift[0].isnan().all() and lift[:, 0].isnan().all()  # no patch is EMPTY
    same(lift[1, 1:], [3, 0])
    same(lift[2, 1:], [0, 1.5])
    # p without patch 0: 2/9, 3/9, 4/9; rows reach 2/9, 3.5/9, 4/9
    same(measured.by_distribution["alignment"][0, 0, 0, 1], 3 * (4 + 10.5 + 16) / 81)
    same(measured.by_distribution["alignment_plain"][0, 0, 0, 1], (2 + 3.5 + 4) / 9)
    # attention of the patches to patch 0: .4, 0, 0, .5
    same(measured.plain["outlier_mass"][0, 0, 0], 0.9 / 4)
