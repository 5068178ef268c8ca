"""Affinity refinement of maps and regions, by the keys of a layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from semattn import AttentionPrompter, SIFTPatchInterrelation, record
from semattn.affinity import (
    FLOOR_AFFINITY,
    MIN_COSINE,
    REGION_REACH,
    confine_to_region,
    random_walk,
    refine_by_affinity,
)
from semattn.prompting import Box, Mask, Points, attention_bias, coverage
from tests import families, models
from tests.models import SIZE, build


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.manual_seed(3))


def halves() -> Tensor:
    """Three images of two colours each, the border further to the right in each."""
    images = torch.full((3, 3, *SIZE), -1.0)
    for number, image in enumerate(images):
        image[:, :, : 16 * (number + 1)] = 1.0
    return images + 0.05 * pictures(3)


def by_hand(keys: Tensor, start: Tensor) -> Tensor:
    """The walk of the definition: five thousand steps by hand."""
    keys = keys / keys.norm(dim=1, keepdim=True)
    near = torch.where(keys @ keys.T > MIN_COSINE, 1.0, FLOOR_AFFINITY).double()
    step = near / near.sum(dim=1, keepdim=True)
    walk = start
    for _ in range(5000):
        walk = (1 - REGION_REACH) * start + REGION_REACH * step @ walk
    return walk


@pytest.fixture(scope="module")
def site_and_keys():
    """A layer of a model, in double precision, its grid, and the keys of both images (P, C)."""
    model = build("registers", torch.float64)
    recorded = record(model, pictures().double(), layers=2, grad=False)
    (site,), grid = recorded.sites, recorded.grid
    keys = site.key[:, :, grid.prefix :].transpose(1, 2).flatten(2)
    return site, grid, keys


def things(site_and_keys, kinds):
    """The layer with keys of its own: patches of a kind have like keys."""
    site, grid, _ = site_and_keys
    keys = site.key.clone()
    far = torch.linalg.qr(
        torch.randn(keys.shape[-1], keys.shape[-1], generator=torch.manual_seed(0))
    )[0]
    for patch, kind in enumerate(kinds):
        keys[:, :, grid.prefix + patch] = far[kind].to(keys)
    return replace(site, key=keys), grid


def test_the_walk_is_the_one_of_the_definition(site_and_keys):
    site, grid, keys = site_and_keys
    start = torch.rand(2, grid.patches, dtype=torch.float64, generator=torch.manual_seed(1))
    all_steps = torch.stack([by_hand(*pair) for pair in zip(keys, start, strict=True)])
    least, most = all_steps.aminmax(dim=1, keepdim=True)
    expected = (all_steps - (least + most) / 2).clamp(min=0)
    torch.testing.assert_close(refine_by_affinity(site, grid, start), expected)
    share = (start > 0.6).double()
    inside = by_hand(keys[0], share[0] / share[0].sum())
    outside = by_hand(keys[0], (1 - share[0]) / (1 - share[0]).sum())
    actual = confine_to_region(site, grid, share)
    torch.testing.assert_close(actual[0], share[0] * inside / (inside + outside))


def test_a_column_is_solved_as_if_it_were_alone(site_and_keys, monkeypatch):
    site, grid, _ = site_and_keys
    starts = torch.rand(2, grid.patches, 3, dtype=torch.float64)
    starts[0, :, 1] = 1  # solved from the start
    together = random_walk(site, grid, starts)
    for column in range(3):
        alone = random_walk(site, grid, starts[..., column, None])
        torch.testing.assert_close(together[..., column, None], alone, rtol=1e-13, atol=0)
    monkeypatch.setattr("semattn.affinity.MAX_PAIRS", 1)  # one image and one row at a time
    torch.testing.assert_close(random_walk(site, grid, starts), together, rtol=1e-13, atol=0)


def test_from_one_patch_its_thing_is_found(site_and_keys):
    site, grid = things(site_and_keys, [0, 0, 1, 1, 2, 0, 1, 2, 2, 1, 0, 1])
    start = torch.zeros(2, grid.patches, dtype=torch.float64)
    start[:, 2] = 1
    actual = refine_by_affinity(site, grid, start)[0]
    assert (actual > 0).tolist() == [kind == 1 for kind in [0, 0, 1, 1, 2, 0, 1, 2, 2, 1, 0, 1]]


def test_within_a_box_what_is_outside_too_counts_less(site_and_keys):
    kinds = [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    site, grid = things(site_and_keys, kinds)
    share = torch.zeros(2, grid.patches, dtype=torch.float64)
    share[:, [5, 6, 9, 10]] = 1
    actual = confine_to_region(site, grid, share)[0]
    assert actual[share[0] == 0].eq(0).all()
    assert actual[9] < 0.5 < actual[[5, 6, 10]].min() and actual[[5, 6, 10]].min() > 0.99


def test_the_whole_image_stays_the_whole_image(site_and_keys):
    site, grid, _ = site_and_keys
    share = torch.ones(2, grid.patches, dtype=torch.float64)
    assert torch.equal(confine_to_region(site, grid, share), share)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.99))
def test_shares_stay_shares(site_and_keys, seed, part):
    site, grid, _ = site_and_keys
    share = torch.rand(2, grid.patches, dtype=torch.float64, generator=torch.manual_seed(seed))
    share = share * (share > part)
    share[:, seed % grid.patches] = 1
    actual = confine_to_region(site, grid, share)
    assert (actual >= 0).all() and (actual <= share + 1e-12).all() and actual.sum(1).gt(0).all()
    assert refine_by_affinity(site, grid, share).ge(0).all()


def test_a_layer_without_keys_grows_nothing(site_and_keys):
    site, grid, _ = site_and_keys
    share = torch.rand(2, grid.patches, dtype=torch.float64)
    bare = replace(site, key=None)
    assert torch.equal(refine_by_affinity(bare, grid, share), share)
    assert torch.equal(confine_to_region(bare, grid, share), share)


@pytest.mark.parametrize("name", [*models.MODELS, *families.FAMILIES])
def test_a_point_leads_on_every_family(name):
    x = torch.rand(3, 3, *models.SIZE, generator=torch.manual_seed(3))
    with families.shared(name) as model:
        prompter = AttentionPrompter(model, strength=1.0)
        point = Points([(20.0, 20.0)])
        together = prompter.bias(point, x)
        assert together.isfinite().all() and (together.amax(dim=1) > together.amin(dim=1)).all()
        torch.testing.assert_close(
            prompter.bias(point, x[1:2]), together[1:2], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("region", [Box(0, 0, 20, 40), Points([(20.0, 20.0)])])
@pytest.mark.parametrize("suppress", [False, True])
def test_a_grown_region_steers_by_the_very_pass(region, suppress):
    model, x = build("registers"), halves()
    prompter = AttentionPrompter(model, strength=1.0, layers="last-half")
    bias = prompter.bias(region, x, suppress=suppress)
    region_weights = coverage(region, prompter.grid(x))[None]
    assert bias.shape == (3, 12) and not torch.equal(bias[0], bias[1])
    if isinstance(region, Points) and not suppress:
        assert not torch.allclose(bias, attention_bias(region_weights).expand(3, -1), atol=0.01)
    with torch.no_grad():
        with prompter.steer(region, suppress=suppress):
            steered = model(x)
        with prompter.steer(_Bias(bias)):
            torch.testing.assert_close(model(x), steered)


class _Bias:
    def __init__(self, made: Tensor) -> None:
        self.made = made

    def bias(self, _: Tensor) -> Tensor:
        return self.made


def test_as_drawn_where_it_is_said():
    model, x = build("registers"), pictures(3)
    prompter = AttentionPrompter(model)
    grid = prompter.grid(x)
    for region in (Box(16, 0, 47, 31, grow=None), Mask(torch.eye(*SIZE).bool().numpy())):
        expected = attention_bias(coverage(region, grid)[None])
        torch.testing.assert_close(prompter.bias(region, x), expected)


def test_an_unknown_way_to_grow_is_named():
    model, x = build("registers"), pictures(1)
    with pytest.raises(ValueError, match="region: expected grow 'from', 'within' or None") as error:
        AttentionPrompter(model).bias(Points([(9, 9)], grow="all"), x)
    assert "\n" not in str(error.value)


def test_an_explainer_shares_relevance_among_like_patches():
    model, x = build("registers"), halves()
    plain = SIFTPatchInterrelation(density="uniform", affinity=0)
    refined = SIFTPatchInterrelation(density="uniform")
    recorded = record(model, x, target=1, layers=plain.layers)
    p = torch.full((3, 12), 1 / 12)
    before, after = plain.relevance(recorded, p), refined.relevance(recorded, p)
    expected = random_walk(recorded.middle_layer(), recorded.grid, before[..., None], 0.9)[..., 0]
    torch.testing.assert_close(after, expected)
    assert not torch.allclose(after, before, rtol=0.05)
    totals = [explainer.patch_map(model, x, target=1).sum() for explainer in (plain, refined)]
    assert totals[0] > 0 and totals[1] > 0
    assert refined.parameters()["affinity"] == 0.9 == refined.model_only().affinity
    almost = SIFTPatchInterrelation(affinity=1e-6).relevance(recorded, p)
    torch.testing.assert_close(almost, before, rtol=1e-4, atol=1e-8)
    for wrong in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"affinity: expected a number in \[0, 1\)") as error:
            SIFTPatchInterrelation(affinity=wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("layers", "half"), [(None, 2), ("last-half", 2), ([0, 1], 1), ([3], 3), ([1, 3], 1)]
)
def test_relevance_is_shared_by_the_keys_half_way_up(layers, half):
    model, x = build("registers"), halves()
    recorded = record(model, x, target=1, layers=layers)
    assert recorded.depth == 4 and recorded.middle_layer().site.layer == half
    p, explainer = torch.full((3, 12), 1 / 12), SIFTPatchInterrelation(density="uniform")
    before = SIFTPatchInterrelation(density="uniform", affinity=0).relevance(recorded, p)
    site = next(candidate for candidate in recorded.sites if candidate.site.layer == half)
    expected = random_walk(site, recorded.grid, before[..., None], 0.9)[..., 0]
    torch.testing.assert_close(explainer.relevance(recorded, p), expected)


@pytest.mark.parametrize("name", [*models.MODELS, *families.FAMILIES])
def test_a_grown_map_on_every_family(name):
    x = torch.rand(2, 3, *models.SIZE, generator=torch.manual_seed(3))
    with families.shared(name) as model:
        explainer = SIFTPatchInterrelation()
        together = explainer.patch_map(model, x, target=0)
        assert together.isfinite().all() and (together >= 0).all() and together.sum() > 0
        alone = explainer.patch_map(model, x[1:], target=0)
        torch.testing.assert_close(alone, together[1:], rtol=1e-3, atol=1e-6)


def test_a_region_that_leaves_little_outside_is_grown_and_a_whole_one_is_not(site_and_keys):
    site, grid, _ = site_and_keys
    most = torch.ones(2, grid.patches, dtype=torch.float64)
    most[:, 4] = 0.5
    assert not torch.equal(confine_to_region(site, grid, most), most)
    mixed = most.clone()
    mixed[1] = 1
    assert confine_to_region(site, grid, mixed).isfinite().all()
