"""Tests of `mask_images`, `densities_of` and the loss weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.density import densities
from semattn.errors import ShapeError
from semattn.keypoints import detect
from semattn.masking import (
    GuidedMasking,
    RandomMasking,
    densities_of,
    kamim_weight,
    loss_weights,
    mask_images,
)


def textured():
    """Return two images with texture in the upper left and in the lower right quarter."""
    rng = np.random.default_rng(0)
    pixels = np.full((2, 64, 64, 3), 128, np.uint8)
    patch = rng.integers(0, 255, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
    pixels[0, :32, :32] = patch
    pixels[1, 32:, 32:] = patch
    return pixels


def test_texture_is_masked_or_visible():
    pixels = textured()
    quarter = np.zeros((4, 4), bool)
    quarter[:2, :2] = True
    for beta, hidden in ((1e4, 4), (-1e4, 0)):
        masks = mask_images(pixels, GuidedMasking(0.5, beta=beta), patch_size=16)
        masked = masks.bool_masked_pos.numpy().reshape(2, 4, 4)
        assert abs(int((masked[0] & quarter).sum()) - hidden) <= 1
        assert abs(int((masked[1] & quarter[::-1, ::-1]).sum()) - hidden) <= 1


def test_without_names_the_pixels_seed_the_mask():
    pixels = textured()
    masks = mask_images(pixels, RandomMasking())
    assert torch.equal(mask_images(pixels[1:], RandomMasking()).noise, masks.noise[1:])
    assert not torch.equal(masks.noise[0], masks.noise[1])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert torch.equal(mask_images(tensor, RandomMasking()).noise, masks.noise)


def test_given_keypoints_are_not_detected_again(monkeypatch):
    pixels = textured()
    keypoints = detect(pixels)
    expected = mask_images(pixels, "guided", images=[0, 1])
    monkeypatch.setattr("semattn.masking.batch.detect", lambda *a, **k: pytest.fail("detected"))
    masks = mask_images(pixels, "guided", images=[0, 1], keypoints=keypoints, loss_weight="kamim")
    assert torch.equal(masks.noise, expected.noise)
    assert mask_images(pixels, "random").loss_weight is None


@pytest.mark.parametrize("name", sorted(set(densities) - {"other"}))
def test_every_density_guides_independent_of_the_batch(name):
    pixels = textured()
    both = mask_images(pixels, "guided", images=["a", "b"], density=name)
    second = mask_images(pixels[1:], "guided", images=["b"], density=name)
    assert torch.equal(both.noise[1:], second.noise)


def test_a_density_that_depends_on_the_batch_is_refused():
    with pytest.raises(ValueError, match="'other', which depends on the batch"):
        mask_images(textured(), "guided", density="other")


def test_sizes_are_checked():
    with pytest.raises(ShapeError, match="sides that are multiples of 14, got 64x64"):
        mask_images(textured(), "guided", patch_size=14)
    with pytest.raises(ShapeError, match="expected 2 names, one per image, got 1"):
        mask_images(textured(), "random", images=["a"])


@given(st.lists(st.floats(0, 5), min_size=2, max_size=9), st.floats(0.2, 3))
@settings(max_examples=60, deadline=None)
def test_kamim_weights_match_the_paper(values, temperature):
    density = torch.tensor([values], dtype=torch.float64)
    w = kamim_weight(density, temperature)
    expected = [np.exp(min(value / temperature, 20)) for value in values]
    assert w[0].tolist() == pytest.approx([value / min(expected) for value in expected])
    assert w.min() == 1
    both = kamim_weight(torch.cat([density, 2 * density + 1]), temperature)
    assert both[:1].equal(w) and both[1].min() == 1, "each image separately"


def test_weights_by_name():
    s = np.array([0.0, 2.0, 8.0])
    assert loss_weights("none", s, 64) is None
    assert loss_weights("kamim", s, 64).tolist() == pytest.approx(np.exp(s / 64 / 0.5).tolist())
    relative = loss_weights("kamim-relative", s, 64)
    assert relative.tolist() == pytest.approx(np.exp(s / 8 / 0.5).tolist())
    assert loss_weights("kamim-relative", np.zeros(3), 64).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="unknown name 'kamin'"):
        loss_weights("kamin", s, 64)
    with pytest.raises(ValueError, match="temperature"):
        kamim_weight(torch.zeros(1, 2), 0)


def test_weights_come_with_the_masks():
    masks = mask_images(textured(), "random", loss_weight="kamim-relative").to("cpu")
    weights = masks.loss_weight.unflatten(1, (4, 4))
    assert weights.shape == (2, 4, 4) and weights.min() == 1
    assert weights[0, :2, :2].mean() > 2 * weights[0, 2:, 2:].mean()


def test_densities_have_one_row_per_image():
    s = densities_of(textured())
    assert s.shape == (2, 16) and s[0, 0] > 0 and s[0, -1] == 0
