"""Pixel, patch and token: every expectation worked out by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.errors import ShapeError
from semattn.grid import PatchGrid

GRID = PatchGrid((3, 4), image_size=(48, 64), cell=(16, 16), prefix=1)


@pytest.mark.parametrize(
    ("x", "y", "patch"),
    [
        (0, 0, 0),
        (-0.5, -0.5, 0),  # the outer edge of the first pixel
        (15.49, 0, 0),
        (15.5, 0, 1),  # the pixels 15 and 16 meet here, and so do the patches
        (0, 15.49, 0),
        (0, 15.5, 4),
        (47.5, 31.5, 11),
        (47.49, 31.49, 6),
        (63.49, 47.49, 11),
        (63.5, 0, -1),
        (0, 47.5, -1),
        (-0.51, 0, -1),
        (0, -0.51, -1),
    ],
)
def test_patch_of_each_side_of_a_border(x, y, patch):
    assert GRID.patch_of(torch.tensor([[x, y]])).tolist() == [patch]


def test_patch_of_nothing():
    assert GRID.patch_of(torch.zeros(0, 2)).shape == (0,)


def test_cells_may_be_fractional_and_oblong():
    grid = PatchGrid((2, 4), image_size=(21, 42), cell=(10.5, 10.5))
    assert grid.patch_of(torch.tensor([[9.9, 9.9], [10.1, 10.1]])).tolist() == [0, 5]
    oblong = PatchGrid((4, 2), image_size=(32, 64), cell=(8, 32))
    assert oblong.patch_of(torch.tensor([[31.4, 7.6]])).tolist() == [2]
    assert oblong.patch_of(torch.tensor([[31.6, 7.4]])).tolist() == [1]


def test_pixels_beyond_the_last_patch_lie_in_none():
    grid = PatchGrid((2, 2), image_size=(35, 36), cell=(16, 16))
    assert grid.patch_of(torch.tensor([[31.0, 31.0], [32.0, 0.0], [0.0, 32.0]])).tolist() == [
        3,
        -1,
        -1,
    ]


def test_centers_by_hand_and_in_their_own_patch():
    centers = GRID.centers()
    assert centers[0].tolist() == [7.5, 7.5]
    assert centers[1].tolist() == [23.5, 7.5]
    assert centers[4].tolist() == [7.5, 23.5]
    assert GRID.patch_of(centers).tolist() == list(range(12))


def test_counts_of_patches_and_tokens():
    assert (GRID.patches, GRID.tokens) == (12, 13)
    assert PatchGrid((3, 4), (48, 64), (16, 16)).tokens == 12


def test_prefix_is_dropped_and_added_at_the_front():
    tokens = torch.arange(13.0)
    assert GRID.drop_prefix(tokens).tolist() == list(range(1, 13))
    assert GRID.add_prefix(torch.ones(2, 12), value=-7.0)[1].tolist() == [-7.0] + [1.0] * 12
    plain = PatchGrid((3, 4), (48, 64), (16, 16))
    assert torch.equal(plain.drop_prefix(plain.add_prefix(tokens[1:])), tokens[1:])


def test_fold_goes_row_by_row():
    picture = GRID.fold(torch.arange(12))
    assert picture.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_wrong_lengths_say_what_to_do():
    with pytest.raises(ShapeError, match=r"weights: expected \(…, 12\) for a 3x4 grid, got"):
        GRID.add_prefix(torch.ones(1, 13))
    with pytest.raises(ShapeError, match="drop the prefix tokens with grid.drop_prefix"):
        GRID.fold(torch.ones(13))
    with pytest.raises(ShapeError, match="one value per patch is needed"):
        GRID.fold(torch.ones(11))
    with pytest.raises(ShapeError, match="one value per token is needed"):
        GRID.drop_prefix(torch.ones(12))
    with pytest.raises(ShapeError, match=r"expected \(B, 48, 64\), got \(1, 64, 48\)"):
        GRID.pool(torch.ones(1, 64, 48))


def test_upsample_puts_each_value_at_the_centre_of_its_patch():
    grid = PatchGrid((1, 2), image_size=(4, 8), cell=(4, 4))
    row = grid.upsample(torch.tensor([[0.0, 4.0]]))[0, 0]
    # centres at 1.5 and 5.5; a straight line between them, flat outside
    assert row.tolist() == [0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4]


def test_upsample_nearest_fills_patches():
    large = GRID.upsample(torch.arange(12.0)[None], mode="nearest")
    assert large.shape == (1, 48, 64)
    assert large.is_contiguous()
    assert torch.equal(GRID.pool(large), torch.arange(12.0)[None])
    assert large[0, 15, 16] == 1
    assert large[0, 16, 15] == 4


def test_upsample_repeats_beyond_the_last_patch():
    grid = PatchGrid((1, 2), image_size=(5, 10), cell=(4, 4))
    large = grid.upsample(torch.tensor([[1.0, 2.0]]), mode="nearest")
    assert large.shape == (1, 5, 10)
    assert large[0, 4].tolist() == [1] * 4 + [2] * 6


def test_pool_is_the_mean_of_the_pixels_of_a_patch():
    grid = PatchGrid((1, 2), image_size=(3, 5), cell=(2, 2))
    pixels = torch.arange(15.0).reshape(1, 3, 5)
    assert grid.pool(pixels).tolist() == [[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4]]


@settings(deadline=None)
@given(
    h=st.integers(1, 5),
    w=st.integers(1, 5),
    cell=st.integers(1, 6),
    data=st.data(),
)
def test_pool_agrees_with_patch_of(h, w, cell, data):
    grid = PatchGrid((h, w), (h * cell, w * cell), (cell, cell))
    y = data.draw(st.integers(0, h * cell - 1))
    x = data.draw(st.integers(0, w * cell - 1))
    patch_values = torch.zeros(1, h * cell, w * cell)
    patch_values[0, y, x] = cell * cell
    patch = grid.patch_of(torch.tensor([[x, y]])).item()
    assert patch == (y // cell) * w + x // cell
    assert grid.pool(patch_values)[0].nonzero().flatten().tolist() == [patch]
    assert grid.pool(patch_values).sum().item() == pytest.approx(1)
