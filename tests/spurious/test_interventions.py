"""Attention to hidden patches against dropped tokens; transplants against pasting by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semattn import record
from semattn.grid import PatchGrid
from semattn.spurious.cue import intervention_context, intervention_patches
from semattn.spurious.cue_detector import CueDetector
from semattn.spurious.interventions import (
    GROUPS,
    InterventionContext,
    InterventionPatches,
    _best_covering,
    class_answers,
    class_log_odds,
    group_accuracies,
    hide,
    log_odds,
    paste_cue,
    paste_patches,
    run_interventions,
    widen,
)
from semattn.spurious.significance import specificity_p
from tests import models


@pytest.fixture(scope="module")
def model():
    return models.build("registers")


def x(count=3, seed=0):
    return torch.rand(count, 3, *models.SIZE, generator=torch.manual_seed(seed))


def test_log_odds_are_those_of_the_softmax():
    logits = torch.randn(4, 5, generator=torch.manual_seed(0))
    classes = torch.tensor([0, 4, 2, 2])
    p = logits.softmax(dim=1).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(log_odds(logits, classes), (p / (1 - p)).log())


def test_answers_are_those_of_the_model(model):
    images, classes = x(), torch.tensor([0, 3, 1])
    with torch.no_grad():
        torch.testing.assert_close(
            class_log_odds(model, images, classes), log_odds(model(images), classes)
        )


def test_probabilities_below_the_least_one_count_as_the_least_one(model):
    class Confident(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return 40 * self.model(images)

    context = InterventionContext(
        Confident().eval(), record(model, x()).grid, lambda rows: x()[rows], lambda rows: None, 2,
        np.array([0, 1, 2]),
    )  # fmt: skip
    answers = class_answers(context, x(), 1)
    with torch.no_grad():
        logits = 40 * model(x())
    expected = logits.softmax(dim=1).clamp(min=1e-4).log()
    assert (expected.exp() < 1.001e-4).any()
    torch.testing.assert_close(torch.from_numpy(answers[:, 1:]), expected)
    torch.testing.assert_close(  # the effect on the class itself is not limited
        torch.from_numpy(answers[:, 0]), log_odds(logits, torch.ones(3).long())
    )


def without(model, image, hidden):
    """Return the logits of one image whose tokens `hidden` (P,) are dropped after the embedding."""
    keep = torch.cat([torch.ones(model.num_prefix_tokens).bool(), ~hidden])

    def drop(_, args):
        return (args[0][:, keep],)

    handle = model.blocks[0].register_forward_pre_hook(drop)
    try:
        with torch.no_grad():
            return model(image[None])
    finally:
        handle.remove()


def test_hidden_patches_equal_dropped_tokens(model):
    images, classes = x(), torch.tensor([0, 3, 1])
    hidden = torch.rand(3, 12, generator=torch.manual_seed(1)).argsort(dim=1) < 3
    before = models.state_of(model)
    with hide(model, hidden):
        log_odds_without = class_log_odds(model, images, classes)
    assert models.state_of(model) == before
    for i in range(3):
        expected = log_odds(without(model, images[i], hidden[i]), classes[i : i + 1])[0]
        torch.testing.assert_close(log_odds_without[i], expected, rtol=1e-4, atol=1e-5)
    assert (class_log_odds(model, images, classes) - log_odds_without).abs().min() > 1e-4


def test_pixels_are_pasted_where_the_patches_are(model):
    into, source = x(2, 1), x(2, 2)
    grid = record(model, into, grad=False).grid
    patches = torch.zeros(2, 12).bool()
    patches[0, 5] = patches[1, 2] = patches[1, 11] = True
    expected = into.clone()
    (height, width), columns = grid.cell, grid.shape[1]
    for image, patch in patches.nonzero().tolist():
        top, left = int(patch // columns * height), int(patch % columns * width)
        region = (slice(None), slice(top, top + int(height)), slice(left, left + int(width)))
        expected[image][region] = source[image][region]
    assert torch.equal(paste_patches(into, source, patches, grid), expected)


def test_a_colour_cast_is_transferred_with_light(model):
    plain = x(1, 3)
    shift = torch.tensor([0.5, 0.0, -0.5])[None, :, None, None]
    grid = record(model, plain, grad=False).grid
    patches = torch.zeros(1, 12).bool()
    patches[0, :8] = True
    pasted_images = paste_patches(plain, plain + shift, patches, grid, match_colours=True)
    torch.testing.assert_close(pasted_images, plain + shift)  # the rest as well
    assert torch.equal(
        paste_patches(plain, plain + shift, patches, grid)[:, :, 32:], plain[:, :, 32:]
    )
    brighter = paste_patches(plain, plain + 0.3, patches, grid, match_colours=True)
    torch.testing.assert_close(brighter[:, :, 32:], plain[:, :, 32:])  # brightness stays


def test_patches_of_confirmed_cues_are_left_out_of_interventions():
    values, objectness = np.full((2, 9, 1), -1.0), np.zeros((2, 9))
    objectness[:, 0] = 1  # the object, in a corner
    values[0, 8] = 1  # patches of a cue that is confirmed
    index = SimpleNamespace(labels=np.array([1, 0]), grid=PatchGrid((3, 3), (9, 9), (3, 3)))
    store = SimpleNamespace(
        gather=lambda rows: {"values": values[rows], "objectness": objectness[rows]},
        index=index,
        extractor=SimpleNamespace(model=None),
        inputs=None,
        batch_size=2,
    )
    confirmed = CueDetector(np.ones(1), 0.0, 1.0, 0.0)
    none = np.zeros(9, bool)
    candidate_cue = SimpleNamespace(target=1, fixed=none, repeated=none, detector=confirmed)
    rows = np.arange(2)
    patches_of = partial(intervention_patches, store, candidate_cue)
    before = intervention_context(store, patches_of, []).patches(rows).off_object
    finders = [lambda _, values: confirmed.scores(values) > 0]
    after = intervention_context(store, patches_of, finders).patches(rows).off_object
    assert np.argwhere(before & ~after).tolist() == [[0, 8]] and not (after & ~before).any()


def test_partners_cover_regions_and_marks_are_widened_by_a_patch():
    regions = np.array([[True, True, False, False]])
    free = np.array([[False, True, True, True], [True, True, False, False]])
    assert _best_covering(np.random.default_rng(0), regions, free).tolist() == [1]
    without_itself = _best_covering(np.random.default_rng(0), free, free, itself=False)
    assert without_itself.tolist() == [1, 0]
    neighbourhood = widen(np.eye(9, dtype=bool)[4:5], PatchGrid((3, 3), (9, 9), (3, 3)))
    assert neighbourhood.all()
    assert widen(np.eye(9, dtype=bool)[:1], PatchGrid((3, 3), (9, 9), (3, 3))).sum() == 4


def test_effects_by_class_contain_the_effect_on_the_class(model):
    images = x(6)
    grid = record(model, images, grad=False).grid
    marks = torch.rand(6, 12, generator=torch.manual_seed(1)).numpy() < 0.3
    everywhere, labels = np.ones_like(marks), np.array([1, 1, 1, 0, 2, 3])
    context = InterventionContext(
        model, grid, lambda rows: images[rows],
        lambda rows: InterventionPatches(
            marks[rows], ~everywhere[rows], everywhere[rows], np.ones(len(rows), bool)
        ),
        2, labels,
    )  # fmt: skip
    result = run_interventions(context, 1, np.arange(3), np.arange(3, 6), seed=0)
    assert result.transplant_by_class.shape == (3, model(images).shape[1])
    assert not np.isnan(result.transplant_by_class[:, [1, 4]]).any()  # in no image the own class
    one_class = replace(context, labels=np.array([1, 1, 1, 3, 3, 3]))
    result = run_interventions(one_class, 1, np.arange(3), np.arange(3, 6), seed=0)
    expected = np.arange(result.transplant_by_class.shape[1]) == 3
    assert np.array_equal(np.isnan(result.transplant_by_class), np.tile(expected, (3, 1)))
    answers = class_answers(context, images, 1)
    torch.testing.assert_close(
        torch.from_numpy(answers[:, 1:]), model(images).detach().log_softmax(dim=1)
    )
    odds = log_odds(torch.from_numpy(answers[:, 1:]), torch.ones(6).long())
    torch.testing.assert_close(torch.from_numpy(answers[:, 0]), odds)
    removal, transplant = result.effects(1, seed=0)
    assert transplant.specificity == specificity_p(result.transplant_by_class, 1)
    assert removal.specificity == 0 and transplant.mean == pytest.approx(result.transplant.mean())


def test_interventions_use_images_whose_object_is_located_only(model):
    images = x(8)
    grid = record(model, images, grad=False).grid
    marks, is_usable = np.zeros((8, 12), bool), np.array([1, 0, 1, 1, 1, 0, 1, 1], bool)
    marks[:, :3] = True
    used = set()

    def inputs(rows):
        used.update(rows.tolist())
        return images[rows]

    def context(usable):
        def patches(rows):
            return InterventionPatches(marks[rows], ~marks[rows], marks[rows], usable[rows])

        labels = np.array([0, 0, 0, 1, 2, 3, 1, 2])
        return InterventionContext(model, grid, inputs, patches, 4, labels)

    result = run_interventions(context(is_usable), 0, np.arange(3), np.arange(3, 8), seed=0)
    assert result.rows.tolist() == [0, 2] and used <= {0, 2, 3, 4, 6, 7}
    filtered = run_interventions(
        context(np.ones(8, bool)), 0, np.array([0, 2]), np.array([3, 4, 6, 7]), seed=0
    )
    assert all(
        np.array_equal(value, expected, equal_nan=True)
        for value, expected in zip(vars(result).values(), vars(filtered).values(), strict=True)
    )
    for unusable in (range(3), range(3, 8)):
        usable = ~np.isin(np.arange(8), unusable)
        nothing = run_interventions(context(usable), 0, np.arange(3), np.arange(3, 8), seed=0)
        assert not len(nothing.rows) and not len(nothing.transplant)


def test_groups_are_predicted_as_one_by_one_and_only_where_the_cue_is_shown(model):
    images = x(8)
    grid = record(model, images, grad=False).grid
    shown = torch.rand(8, 12, generator=torch.manual_seed(1)) < 0.3
    shown[[2, 3, 5, 7]] = False
    nothing = np.zeros((8, 12), bool)
    with torch.no_grad():
        predicted = model(images).argmax(dim=1).numpy()
    labels = np.where(np.arange(8) % 3 == 0, predicted + 1, predicted)
    context = InterventionContext(
        model, grid, lambda rows: images[rows],
        lambda rows: InterventionPatches(
            shown.numpy()[rows], nothing[rows], ~nothing[rows], np.ones(len(rows), bool)
        ),
        3, labels,
    )  # fmt: skip
    suppressed_images = []

    def patches_of(batch):
        same = [(images == image).flatten(1).all(dim=1) for image in batch]
        return torch.stack([shown[of.nonzero()[0, 0]] if of.any() else shown[0] for of in same])

    rows = {"class, cue": np.array([0, 1, 4]), "class, no cue": np.array([2, 3]),
            "others": np.array([5, 6, 7])}  # fmt: skip

    def suppressed(patches):
        assert patches.any(dim=1).all()
        suppressed_images.append(len(patches))
        return hide(model, patches)

    groups = group_accuracies(
        context, predicted == labels, patches_of, suppressed, partial(paste_cue, context), 0, rows,
        seed=0,
    )  # fmt: skip
    for group in groups:
        if group.name == "others, cue transplanted":
            continue
        numbers = rows[group.name]
        with hide(model, shown[numbers]), torch.no_grad():
            without = model(images[numbers]).argmax(dim=1).numpy()
        assert group.count == len(numbers)
        assert group.accuracy == (predicted == labels)[numbers].mean()
        assert group.prompted == (without == labels[numbers]).mean()
    assert suppressed_images == [3, 3, 1]  # class with the cue, transplanted, one of the others
    assert tuple(group.name for group in groups) == GROUPS
