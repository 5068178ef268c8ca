"""Tests of `mask_images` and `densities_of`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semattn.density import densities
from semattn.errors import ShapeError
from semattn.keypoints import detect
from semattn.masking import (
    LOSS_WEIGHTS,
    GuidedMasking,
    RandomMasking,
    densities_of,
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


@pytest.mark.parametrize("name", sorted({*LOSS_WEIGHTS} - {"none", "kamim"}))
def test_weights_come_with_the_masks(name):
    masks = mask_images(textured(), "random", loss_weight=name).to("cpu")
    expected = loss_weights(name, densities_of(textured()), 256)
    assert torch.equal(masks.loss_weight, expected)
    weights = masks.loss_weight.unflatten(1, (4, 4))
    assert weights[0, :2, :2].mean() > 2 * weights[0, 2:, 2:].mean()


def test_densities_have_one_row_per_image():
    s = densities_of(textured())
    assert s.shape == (2, 16) and s[0, 0] > 0 and s[0, -1] == 0
