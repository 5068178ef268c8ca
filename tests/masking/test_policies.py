"""Tests of masking policies: number of masked patches, random numbers per image, effect of beta."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.errors import ShapeError
from semattn.masking import (
    BlockwiseMasking,
    GuidedMasking,
    Masking,
    Masks,
    RandomMasking,
    Schedule,
    generator,
    num_visible,
    policies,
)

SHAPES = st.tuples(st.integers(2, 7), st.integers(2, 7))
RATIOS = st.sampled_from([0.3, 0.5, 0.6, 0.75])
SEEDS = st.integers(0, 2**40)
quick = settings(max_examples=40, deadline=None)


def density(shape, count=3, seed=0):
    """Return densities with many ties and empty patches, as is typical of keypoints."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.integers(-3, 5, (count, shape[0] * shape[1])), 0).astype(float)


@pytest.mark.parametrize("name", sorted(policies))
@given(shape=SHAPES, ratio=RATIOS, seed=SEEDS, epoch=st.integers(0, 900))
@quick
def test_the_number_of_masked_patches_is_that_of_mae(name, shape, ratio, seed, epoch):
    patches = shape[0] * shape[1]
    masks = policies[name](ratio, seed).masks(shape, [0, 1, "x"], density(shape), epoch)
    visible = int(patches * (1 - ratio))
    assert masks.bool_masked_pos.sum(1).tolist() == [patches - visible] * 3
    assert masks.ids_keep.shape == (3, visible)
    for row in masks.noise:
        assert len(row.unique()) == patches and row.min() > 0 and row.max() < 1
    # all forms are consistent
    assert torch.equal(masks.mask.bool(), masks.bool_masked_pos)
    assert not masks.mask.gather(1, masks.ids_keep).any()
    shuffled = torch.arange(patches).expand(3, -1).gather(1, masks.ids_shuffle)
    assert torch.equal(shuffled.gather(1, masks.ids_restore), torch.arange(patches).expand(3, -1))


@pytest.mark.parametrize("name", sorted(policies))
@given(seed=SEEDS, epoch=st.integers(0, 5), order=st.permutations(range(4)))
@quick
def test_a_mask_does_not_depend_on_the_batch(name, seed, epoch, order):
    policy, s, names = policies[name](0.75, seed), density((4, 4), 4), ["a", "b", 7, 8]
    noise = policy.masks((4, 4), names, s, epoch).noise
    mixed = policy.masks((4, 4), [names[i] for i in order], s[order], epoch).noise
    assert torch.equal(mixed, noise[order])
    alone = policy.masks((4, 4), names[2:3], s[2:3], epoch).noise
    assert torch.equal(alone, noise[2:3])


@pytest.mark.parametrize("name", sorted(policies))
def test_seed_epoch_and_image_each_change_the_mask(name):
    s = density((6, 6), 1)

    def noise(seed=0, epoch=0, image="a"):
        return policies[name](0.75, seed).masks((6, 6), [image], s, epoch).noise

    first = noise()
    assert torch.equal(first, noise())
    for other in (noise(seed=1), noise(epoch=1), noise(image="b"), noise(image=0)):
        assert not torch.equal(first, other)


def counts_of_masks(policy, s, draws):
    """Count each set of masked patches, for a grid of 4 patches of which 2 are masked."""
    counts: dict[tuple[int, ...], int] = {}
    masks = policy.masks((2, 2), range(draws), np.repeat(s, draws, 0))
    for row in masks.bool_masked_pos:
        key = tuple(row.nonzero().flatten().tolist())
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.parametrize(
    "policy", [RandomMasking(0.5), GuidedMasking(0.5, beta=0), GuidedMasking(0.5, beta=0, hint=0.5)]
)
def test_at_beta_0_all_sets_are_equally_likely(policy):
    draws = 3000
    counts = counts_of_masks(policy, np.array([[0.0, 9, 3, 0]]), draws)
    expected = draws / 6
    chi2 = sum((counts.get(key, 0) - expected) ** 2 / expected
               for key in itertools.combinations(range(4), 2))  # fmt: skip
    assert chi2 < 20.5  # the .999 quantile at 5 degrees of freedom


@pytest.mark.parametrize("beta", [1.5, -1.5])
def test_odds_are_those_of_the_definition(beta):
    """Without ties, patches are drawn sequentially with odds exp(beta u)."""
    draws, s = 4000, np.array([[0.0, 1, 2, 3]])
    counts = counts_of_masks(GuidedMasking(0.5, beta=beta), s, draws)
    odds = np.exp(beta * np.arange(4) / 3)
    odds /= odds.sum()
    for key in itertools.combinations(range(4), 2):
        a, b = (odds[i] for i in key)
        p = a * b / (1 - a) + b * a / (1 - b)
        standard_deviation = math.sqrt(draws * p * (1 - p))
        assert abs(counts.get(key, 0) - draws * p) < 4.5 * standard_deviation, key


def test_tied_patches_are_masked_equally_often():
    s = np.array([[0.0, 5.0, 0.0, 0.0]])
    counts = counts_of_masks(GuidedMasking(0.5, beta=6.0), s, 3000)
    with_rich = [counts.get(tuple(sorted((1, i))), 0) for i in (0, 2, 3)]
    assert sum(with_rich) > 2700 and max(with_rich) - min(with_rich) < 150


@given(seed=SEEDS, low=st.floats(-9, 9), more=st.floats(0, 9), image=st.integers(0, 99))
@quick
def test_more_beta_masks_richer_patches(seed, low, more, image):
    s = np.random.default_rng(seed).permutation(30).astype(float)[None]  # no ties
    masked = [
        (GuidedMasking(0.5, seed, beta).masks((5, 6), [image], s).mask.numpy() * s).sum()
        for beta in (low, low + more)
    ]
    assert masked[1] >= masked[0]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_beta_masks_the_extreme_patches(sign):
    s = np.arange(16.0)[None]
    masks = GuidedMasking(0.75, beta=sign * 1e6).masks((4, 4), [0], s)
    visible = set(masks.ids_keep[0].tolist())
    assert visible == (set(range(4)) if sign > 0 else set(range(12, 16)))


@given(seed=SEEDS, sign=st.sampled_from([1, -1]), hint=st.sampled_from([0.1, 0.2, 0.3]))
@quick
def test_hints_stay_visible_among_the_preferred_patches(seed, sign, hint):
    s = np.arange(36.0)[None]
    masks = GuidedMasking(0.75, seed, sign * 1e6, hint).masks((6, 6), [0], s)
    preferred = set(range(9, 36)) if sign > 0 else set(range(27))
    shown = preferred & set(masks.ids_keep[0].tolist())
    assert len(shown) == round(hint * 27)
    assert masks.mask.sum() == 27


def test_hints_differ_between_epochs():
    policy, s = GuidedMasking(0.75, 0, 1e6, 0.2), np.arange(36.0)[None]
    assert len({tuple(policy.masks((6, 6), [0], s, epoch).ids_keep[0].sort()[0].tolist())
                for epoch in range(8)}) > 4  # fmt: skip


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_schedules(shape):
    path = [Schedule(-1.0, 3.0, 11, shape)(epoch) for epoch in range(13)]
    assert path[0] == -1
    if shape == "constant":
        assert path == [-1] * 13
        return
    assert path[10] == path[12] == pytest.approx(3)
    assert path[5] == pytest.approx(1)
    assert path == sorted(path)
    steps = np.diff(path[:11])
    assert (steps[0] < steps[4]) == (shape == "cosine")


def test_a_schedule_changes_the_masked_patches():
    policy, s = GuidedMasking(0.5, beta=Schedule(-50, 50, 3)), np.arange(64.0)[None]
    part = [(policy.masks((8, 8), [0], s, e).mask.numpy() * s).sum() for e in range(3)]
    assert part[0] < part[1] < part[2]
    assert [policy.beta_at(epoch) for epoch in range(3)] == [-50, 0, 50]


def test_blocks_are_contiguous():
    """Masked patches have more masked neighbours than in random masks."""

    def neighbours(policy):
        masked = policy.masks((14, 14), range(40)).bool_masked_pos.unflatten(1, (14, 14))
        horizontal = (masked[:, :, 1:] & masked[:, :, :-1]).sum()
        return int(horizontal + (masked[:, 1:] & masked[:, :-1]).sum())

    assert neighbours(BlockwiseMasking(0.4)) > 1.5 * neighbours(RandomMasking(0.4))


def test_the_noise_gives_the_same_mask_in_transformers():
    pytest.importorskip("transformers")
    from transformers import ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        image_size=32, patch_size=8,
    )  # fmt: skip
    masks = GuidedMasking(0.6).masks((4, 4), [0, 1], density((4, 4), 2))
    config.mask_ratio = 0.6
    out = ViTMAEModel(config)(torch.rand(2, 3, 32, 32), noise=masks.noise)
    assert torch.equal(out.mask, masks.mask)
    assert torch.equal(out.ids_restore, masks.ids_restore)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: num_visible(16, 1.0), r"mask_ratio: expected a number in \(0, 1\)"),
        (lambda: num_visible(3, 0.75), "leaves 0"),
        (lambda: GuidedMasking(hint=1.0), "hint: expected"),
        (lambda: GuidedMasking(beta=math.nan), "beta: expected a finite number"),
        (lambda: GuidedMasking(0.75, hint=0.9).masks((4, 4), [0], np.ones((1, 16))), "hint: exp"),
        (lambda: GuidedMasking().masks((4, 4), [0]), "density: expected"),
        (lambda: GuidedMasking().masks((4, 4), [0], np.full((1, 16), np.nan)), "finite"),
        (lambda: RandomMasking(seed=-1).masks((4, 4), [0]), "seed"),
        (lambda: Schedule(0, 1, 3, "steps"), "schedule: unknown name 'steps'"),
        (lambda: Schedule(0, 1, 0), "epochs"),
        (lambda: policies.resolve("gided"), "did you mean 'guided'"),
    ],
)
def test_invalid_options_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_shapes_are_refused():
    with pytest.raises(ShapeError, match=r"density: expected \(1, 16\), got \(1, 15\)"):
        GuidedMasking().masks((4, 4), [0], np.ones((1, 15)))
    with pytest.raises(ShapeError, match="noise"):
        Masks(torch.rand(4), 2)


def test_names_do_not_collide():
    draws = {generator(0, 0, name).integers(2**60) for name in map(str, range(500))}
    assert len(draws) == 500
    assert generator(0, 0, 5).random() != generator(0, 0, 5, purpose=1).random()


def test_a_custom_policy():
    class First(Masking):
        def order(self, view):
            return np.arange(view.shape[0] * view.shape[1])

    assert First(0.5).masks((2, 2), [0]).ids_keep.tolist() == [[0, 1]]
