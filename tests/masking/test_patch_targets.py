"""Tests of targets from model inputs, of `mask_images` and of `MaskedImages`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from semattn.errors import ShapeError
from semattn.images import Preprocessing
from semattn.masking import (
    DescriptorWords,
    RandomMasking,
    descriptor_targets,
    fit_words,
    mask_images,
    output_length,
    patch_targets,
    target_length,
)
from semattn.pretraining import MaskedImages
from semattn.pretraining.data import IMAGENET_MEAN, IMAGENET_STD

NAMES = ["sift", "hog", "pixels", "sift+colour"]
IMAGENET = Preprocessing((32, 48), IMAGENET_MEAN, IMAGENET_STD)


def textured(batch=2, height=32, width=48):
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def expected(pixels, name, **options):
    """Return the targets of pixels (B, H, W, 3) uint8, from floating point images."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return descriptor_targets(images, name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_targets_do_not_depend_on_the_form_of_the_images(name):
    pixels = textured()
    options = {"patch_size": 8, "window": 12}
    targets = expected(pixels, name, **options)
    normalised = IMAGENET.inputs(pixels)
    assert normalised.min() < 0
    for actual in (
        patch_targets(pixels, name, **options),
        patch_targets(normalised, name, preprocessing=IMAGENET, **options),
        mask_images(pixels, "random", target=name, **options).target,
        mask_images(normalised, "random", target=name, preprocessing=IMAGENET, **options).target,
    ):
        assert torch.equal(actual, targets)
    if name != "sift+colour":
        return
    with pytest.raises(ValueError, match="undo the normalisation"):
        patch_targets(normalised, name, **options)


def test_words_are_targets_too():
    pixels = textured()
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    words = fit_words(images, 4, patch_size=8, window=12)
    actual = patch_targets(IMAGENET.inputs(pixels), words, patch_size=8, preprocessing=IMAGENET)
    assert actual.dtype == torch.int64 and torch.equal(actual, words.targets(images))
    masks = mask_images(pixels, "random", patch_size=8, target=words)
    assert torch.equal(masks.target, actual)
    assert torch.equal(masks.to("cpu").target, actual)
    with pytest.raises(ValueError, match=r"^target: expected words of patches of 16[^\n]*$"):
        patch_targets(pixels, words)
    for call in (
        lambda: mask_images(pixels, "random", target="words"),
        lambda: MaskedImages(list(pixels), RandomMasking(), size=32, target="words"),
    ):
        with pytest.raises(ValueError, match=r"^target: expected words[^\n]*fit_words[^\n]*$"):
            call()


def test_the_length_of_outputs():
    assert output_length("sift+pixels", patch_size=8) == target_length("sift+pixels", patch_size=8)
    assert output_length(DescriptorWords(torch.eye(7))) == 7


def test_masks_have_no_target_unless_requested():
    masks = mask_images(textured(), "random")
    assert masks.target is None and masks.to("cpu").target is None
    with pytest.raises(ValueError, match="target: unknown name 'sift2'"):
        mask_images(textured(), "random", target="sift2")
    with pytest.raises(ShapeError, match="sides that are multiples of 7"):
        mask_images(textured(), "random", target="sift", patch_size=7)


@pytest.mark.parametrize("name", NAMES)
def test_targets_follow_crop_and_mirror(name):
    pictures = list(textured(3, 60, 90))
    data = MaskedImages(
        pictures, RandomMasking(), size=32, patch_size=8, target=name, window=12, seed=3
    )
    crops = [data.crop((90, 60), epoch, index) for epoch in range(4) for index in range(3)]
    assert {crop.flip for crop in crops} == {False, True}
    for number, crop in enumerate(crops):
        epoch, index = divmod(number, 3)
        item = data[epoch, index]
        pixels = np.array(crop.image(Image.fromarray(pictures[index])))[None]
        assert torch.equal(item["target"], expected(pixels, name, patch_size=8, window=12)[0])
        inside_step = patch_targets(
            item["pixel_values"][None], name, patch_size=8, window=12,
            preprocessing=Preprocessing((32, 32), IMAGENET_MEAN, IMAGENET_STD),
        )[0]  # fmt: skip
        assert torch.equal(item["target"], inside_step)


def test_the_data_set_hands_over_words_and_refuses_unknown_names():
    pictures = list(textured(2, 32, 32))
    words = fit_words(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2), 4, patch_size=8)
    data = MaskedImages(pictures, RandomMasking(), size=32, patch_size=8, target=words)
    assert data[0, 0]["target"].shape == (16,) and data[0, 0]["target"].dtype == torch.int64
    assert "target" not in MaskedImages(pictures, RandomMasking(), size=32, patch_size=8)[0, 0]
    with pytest.raises(ValueError, match="target: unknown name 'shift'"):
        MaskedImages(pictures, RandomMasking(), size=32, patch_size=8, target="shift")
