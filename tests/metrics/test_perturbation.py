"""What stands for a patch that is gone, and which patch goes first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.metrics.perturbation import SIGMA, baselines, fill_of, kept_pixels, ranks

GRID = PatchGrid((2, 3), (20, 34), (10, 11))  # a column of pixels in no patch
BLACK = (-2.0, -1.5, -1.0)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, *GRID.image_size, generator=torch.manual_seed(0))


@pytest.mark.parametrize("name", sorted(baselines))
def test_what_is_kept_stays_and_the_rest_owes_nothing_to_itself(name):
    x = pictures()
    keep = torch.rand(5, 1, *GRID.image_size, generator=torch.manual_seed(1)) > 0.5
    index = torch.tensor([2, 0, 1, 1, 2])
    made = fill_of(name, x, BLACK)(index, keep)
    kept = keep.expand_as(made)
    assert torch.equal(made[kept], x[index][kept])
    assert made.isfinite().all() and not torch.equal(made[~kept], x[index][~kept])
    alone = fill_of(name, x[2:], BLACK)(torch.tensor([0]), keep[:1])
    torch.testing.assert_close(alone, made[:1])
    whole = fill_of(name, x, BLACK)(index, torch.ones_like(keep))
    assert torch.equal(whole, x[index])


def test_the_blur_is_scipys():
    x = pictures(1)
    made = fill_of("blur", x)(torch.tensor([0]), torch.zeros(1, 1, *GRID.image_size))
    sigma = SIGMA * 34
    for channel in range(3):
        wanted = gaussian_filter(
            x[0, channel].double().numpy(), sigma, mode="mirror", radius=round(3 * sigma)
        )
        torch.testing.assert_close(
            made[0, channel].double(), torch.from_numpy(wanted), atol=1e-5, rtol=0
        )


def test_black_mean_and_a_tensor_by_hand():
    x, none = pictures(), torch.zeros(1, 1, *GRID.image_size)
    first = torch.tensor([1])
    black = fill_of("black", x, BLACK)(first, none)[0]
    assert black.flatten(1).unique(dim=1)[:, 0].tolist() == list(BLACK)
    mean = fill_of("mean", x)(first, none)[0]
    torch.testing.assert_close(mean[:, 0, 0], x[1].flatten(1).mean(1))
    given = torch.full((3, 1, 1), 7.0)
    assert fill_of(given, x)(first, none).eq(7).all()


def test_inpainting_draws_a_ramp_on():
    """A gap in a picture that changes evenly is filled much nearer to it than by its mean."""
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).contiguous()
    keep = torch.ones(1, 1, 64, 64)
    keep[..., 20:36, 40:56] = 0
    made = fill_of("inpaint", ramp)(torch.tensor([0]), keep)
    gap = keep[0, 0] == 0
    error = (made - ramp)[0, :, gap].abs()
    assert error.max() < 0.15 and error.mean() < 0.05
    assert (ramp.mean() - ramp[0, :, gap]).abs().mean() > 0.2
    even = torch.full((1, 3, 17, 23), 0.3)
    drawn = fill_of("inpaint", even)(torch.tensor([0]), torch.eye(17, 23)[None, None])
    torch.testing.assert_close(drawn, even)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.booleans())
def test_ranks_are_a_permutation_that_the_scores_order(seed, patches, coarse):
    scores = torch.rand(2, patches, generator=torch.manual_seed(seed))
    scores = (scores * 3).floor() if coarse else scores
    place = ranks(scores, seed)
    for row, own in zip(place, scores, strict=True):
        assert sorted(row.tolist()) == list(range(patches))
        assert own[row.argsort()].diff().le(0).all()
    assert torch.equal(place, ranks(scores, seed))


def test_equals_do_not_stand_in_the_order_of_the_patches():
    """Else a map with many equals would begin at the top of every image."""
    first = torch.stack([ranks(torch.zeros(1, 16), seed)[0].argmin() for seed in range(30)])
    assert first.unique().numel() > 8


def test_a_patch_is_its_pixels():
    keep = torch.tensor([[True, False, False, False, False, True]])
    found = kept_pixels(keep, GRID)[0, 0]
    wanted = torch.zeros(20, 34, dtype=torch.bool)
    wanted[:10, :11] = True
    wanted[10:, 22:] = True  # the column beyond the last patch goes with it
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("call", "said"),
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
def test_what_does_not_fit_is_said_in_one_line(call, said):
    with pytest.raises((ValueError, ShapeError), match=said) as error:
        call(pictures())
    assert "\n" not in str(error.value)
