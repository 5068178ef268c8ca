"""Tests of the baselines for removed patches and of the order of removal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.metrics.perturbation import BLUR_SIGMA, baselines, fill_of, kept_pixels, ranks

GRID = PatchGrid((2, 3), (20, 34), (10, 11))  # the last pixel column is in no patch
BLACK = (-2.0, -1.5, -1.0)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, *GRID.image_size, generator=torch.manual_seed(0))


@pytest.mark.parametrize("name", sorted(baselines))
def test_kept_pixels_are_unchanged_and_the_others_replaced(name):
    x = pictures()
    keep = torch.rand(5, 1, *GRID.image_size, generator=torch.manual_seed(1)) > 0.5
    index = torch.tensor([2, 0, 1, 1, 2])
    perturbed = fill_of(name, x, BLACK)(index, keep)
    is_kept = keep.expand_as(perturbed)
    assert torch.equal(perturbed[is_kept], x[index][is_kept])
    assert perturbed.isfinite().all() and not torch.equal(perturbed[~is_kept], x[index][~is_kept])
    single = fill_of(name, x[2:], BLACK)(torch.tensor([0]), keep[:1])
    torch.testing.assert_close(single, perturbed[:1])
    unperturbed = fill_of(name, x, BLACK)(index, torch.ones_like(keep))
    assert torch.equal(unperturbed, x[index])


def test_the_blur_matches_scipy():
    x = pictures(1)
    blurred = fill_of("blur", x)(torch.tensor([0]), torch.zeros(1, 1, *GRID.image_size))
    sigma = BLUR_SIGMA * 34
    for channel in range(3):
        expected = gaussian_filter(
            x[0, channel].double().numpy(), sigma, mode="mirror", radius=round(3 * sigma)
        )
        torch.testing.assert_close(
            blurred[0, channel].double(), torch.from_numpy(expected), atol=1e-5, rtol=0
        )


def test_black_mean_and_a_tensor_by_hand():
    x, none = pictures(), torch.zeros(1, 1, *GRID.image_size)
    first = torch.tensor([1])
    black = fill_of("black", x, BLACK)(first, none)[0]
    assert black.flatten(1).unique(dim=1)[:, 0].tolist() == list(BLACK)
    mean = fill_of("mean", x)(first, none)[0]
    torch.testing.assert_close(mean[:, 0, 0], x[1].flatten(1).mean(1))
    replacement = torch.full((3, 1, 1), 7.0)
    assert fill_of(replacement, x)(first, none).eq(7).all()


def test_inpainting_continues_a_ramp():
    """A gap in a linear ramp is filled with a much smaller error than by the mean."""
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).contiguous()
    keep = torch.ones(1, 1, 64, 64)
    keep[..., 20:36, 40:56] = 0
    filled = fill_of("inpaint", ramp)(torch.tensor([0]), keep)
    gap = keep[0, 0] == 0
    error = (filled - ramp)[0, :, gap].abs()
    assert error.max() < 0.15 and error.mean() < 0.05
    assert (ramp.mean() - ramp[0, :, gap]).abs().mean() > 0.2
    uniform = torch.full((1, 3, 17, 23), 0.3)
    filled_uniform = fill_of("inpaint", uniform)(torch.tensor([0]), torch.eye(17, 23)[None, None])
    torch.testing.assert_close(filled_uniform, uniform)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.booleans())
def test_ranks_are_a_permutation_ordered_by_the_scores(seed, patches, coarse):
    scores = torch.rand(2, patches, generator=torch.manual_seed(seed))
    scores = (scores * 3).floor() if coarse else scores
    rank = ranks(scores, seed)
    for row, row_scores in zip(rank, scores, strict=True):
        assert sorted(row.tolist()) == list(range(patches))
        assert row_scores[row.argsort()].diff().le(0).all()
    assert torch.equal(rank, ranks(scores, seed))


def test_ties_are_not_in_patch_order():
    """Otherwise a map with many ties would start at the top of each image."""
    first = torch.stack([ranks(torch.zeros(1, 16), seed)[0].argmin() for seed in range(30)])
    assert first.unique().numel() > 8


def test_kept_pixels_of_patches():
    keep = torch.tensor([[True, False, False, False, False, True]])
    actual = kept_pixels(keep, GRID)[0, 0]
    expected = torch.zeros(20, 34, dtype=torch.bool)
    expected[:10, :11] = True
    expected[10:, 22:] = True  # the last column follows the last patch
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: fill_of("blurr", x), "did you mean 'blur'"),
        (
            lambda x: fill_of("black", x),
            "black: expected the value of a black pixel in 3 input channels",
        ),
        (lambda x: fill_of(torch.zeros(2, 5), x), "baseline: expected a tensor that broadcasts to"),
        (lambda x: ranks(torch.tensor([[0.0, torch.nan]])), "scores: expected finite numbers"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(call, message):
    with pytest.raises((ValueError, ShapeError), match=message) as error:
        call(pictures())
    assert "\n" not in str(error.value)
