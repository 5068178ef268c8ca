"""A moving mark is found, confirmed, located, hidden, erased and stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from semattn import discover_spurious
from semattn.prompting import AttentionPrompter
from semattn.spurious import load_discovery, save_discovery
from semattn.spurious.marks.cue import MarkCue
from semattn.spurious.marks.interventions import shifted_masks
from semattn.spurious.marks.masks import patches_of_masks

from .. import planted

NAMES = ("red", "green", "blue")
SIZE = 30  # pixels of the mark


def label() -> np.ndarray:
    """Return a mark (30, 30, 3) with letters and lines."""
    page = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, SIZE - 1, SIZE - 1), outline="black", width=2)
    draw.text((3, 1), "Ab7", fill="black", font_size=12)
    draw.line((4, 26, 26, 15), fill="red", width=2)
    draw.ellipse((4, 16, 13, 25), fill="blue")
    return np.asarray(page)


def images(each: int, rate: float, seed: int = 0, on: int = 0):
    """Return pairs (pixels, label) and the corner of the mark in each, None without."""
    rng = np.random.default_rng((seed, 5))
    pairs, corners = [], []
    for pixels, number in planted.images(each, 0.0, seed):
        corner = None
        if number == on and rng.random() < rate:
            corner = tuple(rng.integers(0, planted.SIDE - SIZE, 2).tolist())
            pixels = pixels.copy()
            pixels[corner[0] : corner[0] + SIZE, corner[1] : corner[1] + SIZE] = label()
        pairs.append((pixels, number))
        corners.append(corner)
    return pairs, corners


def true_mask(corner) -> np.ndarray:
    mask = np.zeros((planted.SIDE, planted.SIDE), bool)
    if corner is not None:
        mask[corner[0] : corner[0] + SIZE, corner[1] : corner[1] + SIZE] = True
    return mask


@pytest.fixture(scope="module")
def searched():
    pairs, _ = images(24, 0.9)
    model = planted.model_of(pairs)
    discovery = discover_spurious(model, pairs, class_names=NAMES, preprocessing=planted.OWN)
    return model, discovery


@pytest.fixture(scope="module")
def cue(searched):
    marks = [cue for cue in searched[1].cues if isinstance(cue, MarkCue)]
    assert len(marks) == 1, searched[1].notes  # a single mark, not several parts of it
    return marks[0]


@pytest.fixture(scope="module")
def fresh():
    pairs, corners = images(8, 0.6, seed=3)
    return planted.inputs_of(pairs), corners


def test_the_moving_mark_is_a_cue(cue):
    assert cue.name == "red" and cue.where == "a mark at any place"
    assert cue.removal.p < 0.001 and cue.transplant.p < 0.001  # two other classes: no specificity
    assert cue.inside > 0.7 and cue.outside == 0
    assert cue.removal.low > 0 and cue.transplant.low > 0
    assert cue.mark.n_outside == 0 and cue.mark.n_inside == round(24 * cue.inside)
    assert cue.mark.picture.std() > 30  # a sharp mean: the frames agree
    assert all(example.matches.any() for example in cue.examples)
    with_mark = [number for number, corner in enumerate(images(24, 0.9)[1]) if corner is not None]
    listed = [(f"image {number}", "red", True) for number in with_mark]
    assert set(cue.cue_images) <= set(listed) and len(cue.cue_images) == cue.mark.n_inside


def test_the_mark_is_located_in_new_images(cue, fresh):
    inputs, corners = fresh
    overlaps = []
    for regions, corner in zip(cue.locate(inputs), corners, strict=True):
        assert bool(regions) == (corner is not None)
        if corner is not None:
            low, high = regions[0].outline.min(axis=0), regions[0].outline.max(axis=0)
            top, left = corner
            overlap = np.prod(
                np.minimum(high, (left + SIZE, top + SIZE)) - np.maximum(low, (left, top))
            )
            overlaps.append(overlap / (np.prod(high - low) + SIZE**2 - overlap))
    assert np.mean(overlaps) > 0.55
    matches = cue.matches(inputs)
    assert matches.shape == (len(inputs), 144) and set(matches.unique().tolist()) == {0.0, 1.0}
    has_match = matches.bool().any(dim=1).tolist()
    assert has_match == [corner is not None for corner in corners]


def test_erasing_replaces_the_mark_alone(cue, fresh):
    inputs, corners = fresh
    erased = cue.erase(inputs)
    for before, after, corner in zip(inputs, erased, corners, strict=True):
        changed = (before != after).any(dim=0).numpy()
        if corner is None:
            assert not changed.any()
        else:
            mask = true_mask(corner)
            assert changed[mask].mean() > 0.7 and changed[~mask].mean() < 0.12
    assert cue.erase(np.full((96, 96, 3), 120, np.uint8)).shape == (96, 96, 3)


def test_steering_hides_the_patches_in_all_layers(cue, fresh, searched):
    model, (inputs, corners) = searched[0], fresh
    hidden = cue.matches(inputs)
    with torch.no_grad():
        with AttentionPrompter(model).steer(cue, suppress=True):
            steered = model(inputs)
        with AttentionPrompter(model, strength=1.0, layers="all", clip=30.0).steer(
            hidden, suppress=True
        ):
            expected = model(inputs)
        plain = model(inputs)
        with AttentionPrompter(model, strength=0).steer(cue, suppress=True):
            assert torch.equal(model(inputs), plain)
    torch.testing.assert_close(steered, expected)
    has_mark = torch.tensor([corner is not None for corner in corners])
    assert not torch.allclose(steered[has_mark], plain[has_mark], atol=1e-3)
    torch.testing.assert_close(steered[~has_mark], plain[~has_mark])


def test_a_stored_cue_locates_the_same_places(cue, fresh, searched, tmp_path):
    model, discovery = searched
    loaded = load_discovery(save_discovery(discovery, tmp_path / "cues.npz"), model)
    again = next(cue for cue in loaded.cues if isinstance(cue, MarkCue))
    assert again.summary() == cue.summary()
    with pytest.raises(ValueError, match="model: expected the model of the search"):
        MarkCue(**vars(again) | {"model": None, "preprocessing": None}).locate(fresh[0])
    assert torch.equal(again.matches(fresh[0], model), cue.matches(fresh[0]))


def test_patches_of_masks_need_a_tenth():
    grid = discovery_grid()
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 0, 0] = True  # 1 of 16 pixels of the first patch
    masks[0, 4:, 4:] = True
    assert patches_of_masks(masks, grid).tolist() == [[False, False, False, True]]


def discovery_grid():
    from semattn.grid import PatchGrid

    return PatchGrid((2, 2), (8, 8), (4, 4))


def test_shifted_masks_have_the_shape_and_avoid_the_object():
    rng = np.random.default_rng(0)
    masks = np.zeros((1, 40, 40), bool)
    masks[0, 2:8, 3:11] = True
    occupied = np.zeros((1, 40, 40), bool)
    occupied[0, :20] = True
    shifted = shifted_masks(masks, occupied, rng)
    assert shifted.sum() == masks.sum() and not (shifted & (masks | occupied)).any()
