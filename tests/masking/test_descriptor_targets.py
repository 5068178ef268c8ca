"""Tests of descriptor targets by name, words, and the loss."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from semattn.errors import SemattnError, ShapeError
from semattn.masking import (
    dense_colour,
    dense_rootsift,
    descriptor_targets,
    fit_words,
    load_words,
    masked_target_loss,
    normalised_pixels,
    target_length,
    target_parts,
)
from semattn.masking.descriptor_words import DescriptorWords

NAMES = [*target_parts, *("+".join(pair) for pair in itertools.permutations(target_parts, 2))]


def textured(batch: int = 2, height: int = 32, width: int = 48, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_every_target_has_its_length_and_mean_square_one(name):
    targets = descriptor_targets(textured(), name, patch_size=16)
    assert targets.shape == (2, 6, target_length(name, patch_size=16))
    torch.testing.assert_close(targets.square().mean(-1), torch.ones(2, 6), atol=2e-3, rtol=0)
    flat = descriptor_targets(torch.full((1, 3, 32, 32), 0.5), name, patch_size=16)
    assert flat.abs().amax() < 1e-3


def test_parts_have_equal_shares():
    images = textured()
    targets = descriptor_targets(images, "sift+pixels", patch_size=16, window=24)
    sift, pixels = targets.split([128, 768], dim=-1)
    shares = torch.stack([sift.square().sum(-1), pixels.square().sum(-1)]) / (128 + 768)
    torch.testing.assert_close(shares, torch.full((2, 2, 6), 0.5), atol=1e-3, rtol=0)
    torch.testing.assert_close(sift, dense_rootsift(images, 16, 24) * math.sqrt(896 / 2))
    torch.testing.assert_close(pixels, normalised_pixels(images, 16) * math.sqrt(896 / 2 / 768))
    colour = descriptor_targets(images, "colour")
    torch.testing.assert_close(colour, dense_colour(images) * math.sqrt(48))


def test_the_length_of_small_patches():
    assert target_length("sift", patch_size=2) == 128
    assert target_length("hog+colour", patch_size=4) == 9 + 48


@pytest.mark.parametrize("target", ["words", "sifts", "sift+", "", "sift+color", None, 3])
def test_unknown_targets_are_refused(target):
    with pytest.raises(ValueError, match="^target: unknown name [^\n]*$"):
        descriptor_targets(textured(), target)


def test_words_are_the_nearest_centres(tmp_path):
    images = textured(4, 64, 64)
    words = fit_words(images, 8, "sift+colour", window=24, seed=3)
    assert len(words) == 8
    actual = words.targets(images)
    assert actual.dtype == torch.int64 and actual.shape == (4, 16)
    vectors = descriptor_targets(images, "sift+colour", window=24)
    distance = ((vectors[:, :, None].double() - words.centres.double()) ** 2).sum(-1)
    assert torch.equal(actual, distance.argmin(-1))
    assert torch.equal(actual, words.assign(vectors))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(words.assign(vectors), actual)
    assert len(actual.unique()) > 1
    again = fit_words(images, 8, "sift+colour", window=24, seed=3)
    assert torch.equal(again.centres, words.centres)

    loaded = load_words(words.save(tmp_path / "words.npz"))
    assert torch.equal(loaded.centres, words.centres)
    assert torch.equal(loaded.targets(images), actual)
    assert (loaded.target, loaded.patch_size, loaded.window) == ("sift+colour", 16, 24)


def test_words_of_unequal_norm_are_the_nearest_too():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 3, generator=generator) * torch.rand(20, 1, generator=generator)
    vectors = torch.randn(2, 50, 3, generator=generator)
    nearest = torch.cdist(vectors, centres[None].expand(2, -1, -1)).argmin(-1)
    assert torch.equal(DescriptorWords(centres).assign(vectors), nearest)


def test_centres_are_their_own_words():
    centres = torch.eye(5)
    words = DescriptorWords(centres)
    assert words.assign(centres[None]).tolist() == [[0, 1, 2, 3, 4]]


def test_errors_of_words_are_one_line(tmp_path):
    with pytest.raises(ShapeError, match=r"^descriptors: expected \(B, P, 5\)[^\n]*$"):
        DescriptorWords(torch.eye(5)).assign(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="^images: expected at least 30 patches[^\n]*$"):
        fit_words(textured(), 30)
    with pytest.raises(ValueError, match="^count: expected"):
        fit_words(textured(), 1)
    with pytest.raises(TypeError, match="^images: expected a tensor"):
        fit_words(np.zeros((2, 3, 32, 32)), 2)
    with pytest.raises(SemattnError, match="^path: expected words[^\n]*does not exist$"):
        load_words(tmp_path / "missing.npz")
    file = tmp_path / "other.npz"
    file.write_bytes(b"not an archive")
    with pytest.raises(SemattnError, match="^path: expected a file written by[^\n]*$"):
        load_words(file)
    np.savez(file, centres=np.zeros((2, 3), np.float32))
    with pytest.raises(SemattnError, match="^path: expected a file written by[^\n]*$"):
        load_words(file)
    np.savez(file, centres=np.array([{}], dtype=object))
    with pytest.raises(SemattnError, match="^path: expected a file written by[^\n]*$"):
        load_words(file)


def slow_loss(predicted, targets, mask, weights):
    """Return the loss by loops over images and patches."""
    images = []
    for image in range(len(predicted)):
        total = weight_sum = 0.0
        for patch in range(predicted.shape[1]):
            if mask[image, patch]:
                if targets.is_floating_point():
                    loss = float(((predicted[image, patch] - targets[image, patch]) ** 2).mean())
                else:
                    exponentials = predicted[image, patch].exp()
                    loss = -math.log(exponentials[targets[image, patch]] / exponentials.sum())
                total += float(weights[image, patch]) * loss
                weight_sum += float(weights[image, patch])
        images.append(total / weight_sum if weight_sum else 0.0)
    return sum(images) / len(images)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), are_words=st.booleans(), is_weighted=st.booleans())
def test_the_loss_matches_a_slow_loop(seed, are_words, is_weighted):
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    if are_words:
        targets = torch.randint(4, (3, 5), generator=generator)
    else:
        targets = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 5, generator=generator) < 0.5
    weights = torch.rand(3, 5, generator=generator, dtype=torch.float64) if is_weighted else None
    actual = masked_target_loss(predicted, targets, mask, weights)
    expected = slow_loss(predicted, targets, mask, torch.ones(3, 5) if weights is None else weights)
    assert actual.item() == pytest.approx(expected, abs=1e-12)
    float_mask = masked_target_loss(predicted, targets, mask.float(), weights)
    torch.testing.assert_close(float_mask, actual)
    if is_weighted:  # only ratios within an image matter
        scale = torch.tensor([[1.0], [7.0], [0.01]], dtype=torch.float64)
        scaled = masked_target_loss(predicted, targets, mask, weights * scale)
        torch.testing.assert_close(scaled, actual)


@pytest.mark.parametrize("are_words", [False, True])
def test_visible_patches_have_no_gradient(are_words):
    predicted = torch.randn(2, 3, 4, requires_grad=True)
    targets = torch.zeros(2, 3, dtype=torch.int64) if are_words else torch.ones(2, 3, 4)
    mask = torch.tensor([[1, 0, 0], [0, 0, 0]])  # the second image has no masked patch
    masked_target_loss(predicted, targets, mask).backward()
    assert predicted.grad.isfinite().all()
    assert predicted.grad.abs().sum(-1).bool().tolist() == [[True, False, False], [False] * 3]


def test_half_precision_is_compared_in_float32():
    loss = masked_target_loss(
        torch.zeros(1, 1, 4, dtype=torch.bfloat16), torch.full((1, 1, 4), 1.001), torch.ones(1, 1)
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.001**2, rel=1e-6)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"predicted": torch.zeros(2, 4, 3)}, ShapeError, "targets: expected"),
        ({"predicted": torch.zeros(2, 3)}, ShapeError, "predicted: expected"),
        ({"predicted": torch.zeros(2, 3, 4, dtype=torch.int64)}, ShapeError, "predicted: expected"),
        ({"targets": torch.zeros(2, 3, 5)}, ShapeError, "targets: expected"),
        ({"targets": torch.zeros(2, 3, 4, dtype=torch.int64)}, ShapeError, "targets: expected"),
        ({"targets": torch.full((2, 3), 4)}, ValueError, "targets: expected words from 0 to 3"),
        ({"targets": torch.full((2, 3), -100)}, ValueError, "targets: expected words from 0 to 3"),
        ({"mask": torch.zeros(2, 4)}, ShapeError, "mask: expected"),
        ({"mask": None}, TypeError, "mask: expected"),
        ({"weights": torch.zeros(3)}, ShapeError, "weights: expected"),
    ],
)
def test_errors_of_the_loss_are_one_line(changed, error, message):
    arguments = {
        "predicted": torch.zeros(2, 3, 4), "targets": torch.zeros(2, 3, 4),
        "mask": torch.ones(2, 3),
    }  # fmt: skip
    with pytest.raises(error, match=f"^{message}[^\n]*$"):
        masked_target_loss(**(arguments | changed))


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    section = page.split("## Descriptor targets")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "pretraining.md", "exec", dont_inherit=True), scope)
    assert scope["loss"] > 0
    assert load_words(tmp_path / "words.npz").target == "sift"
